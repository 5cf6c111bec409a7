// Logits of the golden checkpoints against those transformers computed in float64, in every way a step can be
// cut.
#include <gtest/gtest.h>

#include "unit/kernels/kernel_testing.h"
#include "unit/model/golden.h"

namespace awq::testing {
namespace {

std::vector<Step> chunks_of(int64_t size) {
  std::vector<Step> steps;
  for (int64_t sequence = 0; sequence < kGoldenSequences; ++sequence)
    for (int64_t at = 0; at < kGoldenLength; at += size)
      steps.push_back({{sequence, std::min(size, kGoldenLength - at)}});
  return steps;
}

std::vector<Step> together(int64_t size) {
  std::vector<Step> steps;
  for (int64_t at = 0; at < kGoldenLength; at += size) {
    const int64_t n = std::min(size, kGoldenLength - at);
    steps.push_back({{0, n}, {1, n}});
  }
  return steps;
}

// Sequence 0 decodes while the prompt of sequence 1 is read in chunks of 7; the last tokens of 1 are decoded
// alone.
std::vector<Step> interleaved() {
  std::vector<Step> steps = {{{0, 22}}};
  for (int i = 0; i < 4; ++i) steps.push_back({{0, 1}, {1, 7}});
  for (int i = 0; i < 14; ++i) {
    Step step = {{0, 1}};
    if (i < 10) step.insert(step.begin(), {1, 1});
    steps.push_back(step);
  }
  steps.push_back({{1, 2}});
  return steps;
}

struct Way {
  const char* name;
  bool cached;
  std::vector<Step> steps;
};

const std::vector<Way>& ways() {
  static const std::vector<Way> all = {
      {"without a cache", false, whole_sequences()},
      {"one step", true, whole_sequences()},
      {"each sequence in one step", true, chunks_of(kGoldenLength)},
      {"token by token", true, chunks_of(1)},
      {"7 tokens at a time", true, chunks_of(7)},
      {"both, token by token", true, together(1)},
      {"both, 16 tokens at a time", true, together(16)},
      {"prompt chunks beside decodes", true, interleaved()},
  };
  return all;
}

class Golden : public ::testing::TestWithParam<std::string> {
 protected:
  Golden()
      : checkpoint_(Checkpoint::open(golden_root() / GetParam())), expected_(load_expected(GetParam())) {}

  double error(const Model& model, const Way& way, DType kv) const {
    const KvCache cache(model.config(), 6, kv);
    return relative_error(run_steps(model, expected_.ids, way.steps, way.cached ? &cache : nullptr),
                          expected_.logits);
  }

  std::shared_ptr<const Checkpoint> checkpoint_;
  Expected expected_;
};

TEST_P(Golden, LogitsHoweverStepsAreCut) {
  on_every_isa([&] {
    const auto model = Model::load(*checkpoint_);
    for (const Way& way : ways()) EXPECT_LT(error(*model, way, DType::kF32), kGoldenTolerance) << way.name;
  });
}

// Without the final length each step rotates for the length it reaches; cached keys stay as they were.
TEST_P(Golden, UnforeseenGrowthIsTransformersCache) {
  const auto model = Model::load(*checkpoint_);
  const KvCache cache(model->config(), 6, DType::kF32);
  const auto& want = expected_.stepwise.empty() ? expected_.logits : expected_.stepwise;
  for (const Way& way : {ways()[3], ways()[5]})
    EXPECT_LT(relative_error(run_steps(*model, expected_.ids, way.steps, &cache, false), want), kGoldenTolerance)
        << way.name;
  EXPECT_LT(relative_error(run_steps(*model, expected_.ids, whole_sequences(), nullptr, false), expected_.logits),
            kGoldenTolerance);
}

// 11 and 8 bits of significand in keys and values, over two layers.
TEST_P(Golden, SmallerCachesStayNear) {
  const auto model = Model::load(*checkpoint_);
  for (const Way& way : {ways()[3], ways().back()}) {
    EXPECT_LT(error(*model, way, DType::kF16), 5e-3) << way.name;
    EXPECT_LT(error(*model, way, DType::kBF16), 4e-2) << way.name;
  }
}

TEST_P(Golden, Bf16ProductsStayNear) {
  on_every_isa([&] {
    const auto model = Model::load(*checkpoint_, {Precision::kBf16, nullptr});
    for (const Way& way : {ways()[0], ways()[3]})
      EXPECT_LT(error(*model, way, DType::kF32), 6e-2) << way.name;
  });
}

TEST_P(Golden, SameBitsForAnyNumberOfThreads) {
  const auto model = Model::load(*checkpoint_);
  for (const Way& way : {ways()[0], ways().back()})
    same_for_any_threads([&] {
      const KvCache cache(model->config(), 6, DType::kF32);
      return run_steps(*model, expected_.ids, way.steps, way.cached ? &cache : nullptr);
    });
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, Golden, ::testing::ValuesIn(golden_names()),
                         [](const auto& given) { return test_name(given.param); });

TEST(GoldenFiles, EveryKindIsThere) {
  const auto names = golden_names();
  for (const char* name :
       {"llama-tied", "llama-biases", "llama-rope-llama3-v4", "llama-rope-linear-v5", "llama-sharded",
        "qwen2-tied", "qwen2-window", "mistral-window", "mistral-head-dim", "ministral-layer-types", "qwen3-tied",
        "qwen3-untied", "phi3-plain", "phi3-partial", "phi3-longrope-short", "phi3-longrope-long", "llama-yarn",
        "llama-yarn-options", "llama-dynamic", "gemma3-pattern-v4", "gemma3-layer-types-v5", "gemma2-softcaps", "autoawq/quant-config-json", "autoawq/skipped-down-proj"})
    EXPECT_NE(std::find(names.begin(), names.end(), name), names.end()) << name;
}

TEST(GoldenFiles, AStepReadsTheLinearsAndTheHead) {
  const auto untied = Model::load(*Checkpoint::open(golden_root() / "llama-untied"));  // F32
  const int64_t block = 4 * 48 * 48 + 3 * 64 * 48, head = 128 * 48;
  EXPECT_EQ(untied->decode_bytes(), 4 * (2 * block + head));
  EXPECT_EQ(untied->bytes(), 4 * (2 * block + 2 * head));
  const auto tied = Model::load(*Checkpoint::open(golden_root() / "llama-tied"));
  EXPECT_EQ(tied->bytes(), tied->decode_bytes());
}

}  // namespace
}  // namespace awq::testing
