// Tuning of a block: never worse on its loss, the same for any number of threads, and within the form it was
// given.
#include "quant/block_tuning.h"
#include "quant/plan.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/half.h"
#include "kernels/quant_ops.h"
#include "quant/job.h"
#include "unit/kernels/kernel_testing.h"
#include "unit/model/golden.h"

namespace awq::testing {
namespace {

constexpr int64_t kLength = 24, kCount = 5;

struct TunedBlock {
  std::shared_ptr<const ModelConfig> config;
  BlockSpec spec;
  BlockWeights weights;
  TokenSequences sequences;
  std::vector<float> inputs, targets;

  explicit TunedBlock(const std::string& name) {
    const auto checkpoint = Checkpoint::open(golden_root() / name);
    config = std::make_shared<const ModelConfig>(parse_model_config(checkpoint->config(), name));
    spec = find_arch(config->model_type, name).block(*config, 0);
    weights = load_block(*checkpoint, *config, spec, true);
    sequences.ids.assign(static_cast<size_t>(kLength * kCount), 1);
    sequences.lengths.assign(kCount, kLength);
    inputs = random_floats(kLength * kCount * config->hidden, 1);
    targets = run(weights);
  }

  std::vector<float> run(const BlockWeights& with) const {
    HiddenStates states(sequences, config->hidden, inputs);
    Scratch scratch;
    states.advance(Block(config, spec, with, Precision::kExact), scratch, nullptr);
    return {states.values().begin(), states.values().end()};
  }

  double loss(const std::map<std::string, RoundedWeight>& rounded) const {
    BlockWeights with = weights;
    for (const auto& [module, q] : rounded) with.weights[module] = static_cast<const QuantWeight&>(q);
    const std::vector<float> y = run(with);
    double sum = 0;
    // Five sequences: the last decides what is kept.
    const size_t first = y.size() / kCount * (kCount - 1);
    for (size_t i = first; i < y.size(); ++i) sum += std::pow(static_cast<double>(y[i]) - targets[i], 2);
    return sum / static_cast<double>(y.size() - first);
  }

  std::map<std::string, RoundedWeight> rounded(const Scheme& scheme, DType dtype,
                                               const std::string& left_out = "") const {
    std::map<std::string, RoundedWeight> out;
    for (const LinearSpec& l : spec.linears)
      if (l.role != left_out)
        out.emplace(l.module, quantize_minmax(weights.dense(l.module).f32(), l.out, l.in, scheme, dtype));
    return out;
  }

  TuningOutcome tune(std::map<std::string, RoundedWeight>& codes, int iterations, bool bf16 = false) const {
    const HiddenStates in(sequences, config->hidden, inputs), out(sequences, config->hidden, targets);
    return tune_block(*config, spec, weights, {in, out, iterations, bf16}, codes);
  }
};

TEST(BlockTuning, LowersTheLossAndKeepsTheForm) {
  const TunedBlock block("llama-tied");
  for (const int bits : {3, 4, 8})
    for (const ZeroKind zero : {ZeroKind::kInteger, ZeroKind::kNone})
      for (const int group : {8, -1}) {
        const Scheme scheme{CodeKind::kAffine, bits, group, zero};
        const DType dtype = group < 0 ? DType::kBF16 : DType::kF16;
        SCOPED_TRACE(scheme.text() + " " + dtype_name(dtype));
        const auto before = block.rounded(scheme, dtype);
        auto after = before;
        const TuningOutcome outcome = block.tune(after, 8);
        EXPECT_NEAR(outcome.before, block.loss(before), 1e-3 * outcome.before);
        EXPECT_NEAR(outcome.after, block.loss(after), 1e-3 * outcome.before);
        EXPECT_LE(outcome.after, outcome.before);
        if (bits <= 4) {
          EXPECT_LT(outcome.after, outcome.before);
        }
        for (const auto& [module, q] : after) {
          check_consistent(q);
          const RoundedWeight& old = before.at(module);
          EXPECT_EQ(q.scheme, old.scheme);
          EXPECT_EQ(q.zeros, old.zeros);
          for (size_t i = 0; i < q.codes.size(); ++i)
            ASSERT_LE(std::abs(q.codes[i] - old.codes[i]), 1) << module << " " << i;
          for (const float s : q.scales)
            ASSERT_EQ(s, dtype == DType::kF16 ? round_to_fp16(s) : round_to_bf16(s));
        }
      }
}

TEST(BlockTuning, EveryArchitecture) {
  for (const std::string& name : golden_names(false)) {
    if (name.starts_with("gemma")) continue;
    SCOPED_TRACE(name);
    const TunedBlock block(name);
    auto codes = block.rounded({CodeKind::kAffine, 3, -1, ZeroKind::kInteger}, DType::kF16);
    const double before = block.loss(codes);
    const TuningOutcome outcome = block.tune(codes, 4);
    EXPECT_NEAR(outcome.before, before, 1e-3 * before);
    EXPECT_NEAR(outcome.after, block.loss(codes), 1e-3 * before);
    EXPECT_LE(outcome.after, outcome.before);
  }
}

TEST(BlockTuning, GemmaIsRefused) {
  int refused = 0;
  for (const std::string& name : golden_names(false)) {
    if (!name.starts_with("gemma")) continue;
    const auto checkpoint = Checkpoint::open(golden_root() / name);
    QuantizeOptions options;
    options.quality = "max", options.group = -1;
    try {
      plan_quantize(*checkpoint, options, 0);
      ADD_FAILURE() << name;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Code::kUnsupported);
      EXPECT_NE(std::string(error.what()).find("gemma"), std::string::npos) << error.what();
      ++refused;
    }
    options.quality = "best";
    EXPECT_NO_THROW(plan_quantize(*checkpoint, options, 0));
  }
  EXPECT_GT(refused, 0);
}

TEST(BlockTuning, SameForAnyNumberOfThreads) {
  const TunedBlock block("llama-tied");
  const auto start = block.rounded({CodeKind::kAffine, 4, 8, ZeroKind::kInteger}, DType::kF16, "o_proj");
  for (const bool bf16 : {false, true}) {
    std::map<std::string, RoundedWeight> first;
    double loss = 0;
    for (const int n : {1, 2, 3}) {
      set_threads(n);
      auto codes = start;
      const TuningOutcome outcome = block.tune(codes, 10, bf16);
      if (first.empty()) first = codes, loss = outcome.after;
      EXPECT_EQ(outcome.after, loss) << n;
      for (const auto& [module, q] : codes) {
        EXPECT_EQ(q.codes, first.at(module).codes) << module << ", " << n;
        EXPECT_EQ(q.scales, first.at(module).scales) << module << ", " << n;
      }
    }
  }
  set_threads(available_cores());
}

TEST(BlockTuning, IsRefusedOnADevice) {
  QuantizeOptions options;
  check_runs_on_device(options);
  options.quality = "max";
  EXPECT_THROW(check_runs_on_device(options), Error);
}

TEST(BlockTuning, KeepsWhatCannotBecomeBetter) {
  const TunedBlock block("llama-tied");
  auto codes = block.rounded({CodeKind::kAffine, 8, 8, ZeroKind::kInteger}, DType::kF32);
  // Targets that these codes meet exactly.
  TunedBlock exact = block;
  for (const auto& [module, q] : codes) exact.weights.weights[module] = static_cast<const QuantWeight&>(q);
  exact.targets = exact.run(exact.weights);
  const auto before = codes;
  exact.weights = block.weights;
  const TuningOutcome outcome = exact.tune(codes, 6);
  EXPECT_EQ(outcome.kept, 0);
  for (const auto& [module, q] : codes) EXPECT_EQ(q.codes, before.at(module).codes) << module;
}

}  // namespace
}  // namespace awq::testing
