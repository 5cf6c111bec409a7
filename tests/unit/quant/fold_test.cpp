// Scales folded into what produces a site leave the function as it was, whatever they are (AWQ paper,
// section 3.2).
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "quant/awq_scale.h"
#include "unit/kernels/kernel_testing.h"
#include "unit/model/golden.h"

namespace awq::testing {
namespace {

// exp(0.7 N), equal over the query heads that share a key/value head: those channels are rows of one v_proj
// row.
std::vector<float> random_scale(const ScaleGroup& group, const BlockSpec& spec, const ModelConfig& c,
                                std::mt19937& rng) {
  const LinearSpec* consumer = nullptr;
  for (const LinearSpec& linear : spec.linears)
    if (linear.module == group.consumers.front()) consumer = &linear;
  std::normal_distribution<float> normal;
  std::vector<float> scale(static_cast<size_t>(consumer->in));
  for (float& s : scale) s = std::exp(0.7f * normal(rng));
  if (group.fold != Fold::kKvHeads) return scale;
  const int64_t shared = c.heads / c.kv_heads;
  for (int64_t k = 0; k < consumer->in; ++k)
    scale[k] = scale[k / (shared * c.head_dim) * shared * c.head_dim + k % c.head_dim];
  return scale;
}

enum class Which { kNone, kAll, kOne };

// The model with scales folded into the groups of every block: none, all, or number `one`.
std::shared_ptr<const Model> folded(const Checkpoint& checkpoint, Which which, size_t one = 0) {
  const auto config = std::make_shared<const ModelConfig>(
      parse_model_config(checkpoint.config(), checkpoint.path().string()));
  std::mt19937 rng(5);
  std::vector<std::unique_ptr<Block>> blocks;
  for (int64_t layer = 0; layer < config->layers; ++layer) {
    const BlockSpec spec = find_arch(config->model_type, "config.json").block(*config, layer);
    BlockWeights weights = load_block(checkpoint, *config, spec, true);
    for (size_t g = 0; g < spec.scale_groups.size(); ++g) {
      if (which == Which::kNone || (which == Which::kOne && g != one)) continue;
      const ScaleGroup& group = spec.scale_groups[g];
      apply_scale(group, random_scale(group, spec, *config, rng), *config, weights);
    }
    blocks.push_back(std::make_unique<Block>(config, spec, weights, Precision::kExact));
  }
  const Tensor embedding = load_embedding(checkpoint, *config);
  return std::make_shared<Model>(config, embedding, load_gain(checkpoint, *config, kFinalNormName, config->hidden),
                                 load_head(checkpoint, *config, embedding), std::move(blocks),
                                 Precision::kExact);
}

class FoldTest : public ::testing::TestWithParam<std::string> {};

TEST_P(FoldTest, LogitsStay) {
  const auto checkpoint = Checkpoint::open(golden_root() / GetParam());
  const Expected expected = load_expected(GetParam());
  const auto error = [&](Which which, size_t one) {
    const auto model = folded(*checkpoint, which, one);
    return relative_error(run_steps(*model, expected.ids, whole_sequences(), nullptr), expected.logits);
  };
  for (size_t group = 0; group < 4; ++group)
    EXPECT_LT(error(Which::kOne, group), kGoldenTolerance) << "group " << group;
  EXPECT_LT(error(Which::kAll, 0), kGoldenTolerance);
}

// The test above would pass if nothing were scaled.
TEST_P(FoldTest, WeightsMove) {
  const auto checkpoint = Checkpoint::open(golden_root() / GetParam());
  const ModelConfig config = parse_model_config(checkpoint->config(), GetParam());
  const BlockSpec spec = find_arch(config.model_type, GetParam()).block(config, 0);
  BlockWeights weights = load_block(*checkpoint, config, spec, true);
  std::mt19937 rng(5);
  for (const ScaleGroup& group : spec.scale_groups) {
    std::vector<Tensor> before;
    for (const std::string& module : group.consumers) before.push_back(weights.dense(module).clone());
    const std::vector<float> scale = random_scale(group, spec, config, rng);
    apply_scale(group, scale, config, weights);
    for (size_t i = 0; i < before.size(); ++i) {
      const Tensor after = weights.dense(group.consumers[i]);
      for (size_t k = 0; k < scale.size(); ++k)  // the first row
        EXPECT_FLOAT_EQ(after.f32()[k], before[i].f32()[k] * scale[k])
            << group.consumers[i] << " column " << k;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, FoldTest, ::testing::ValuesIn(golden_names(false)),
                         [](const auto& given) { return test_name(given.param); });

}  // namespace
}  // namespace awq::testing
