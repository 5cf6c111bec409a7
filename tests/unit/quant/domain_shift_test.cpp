// How far two texts lie apart, as the linears' inputs see it.
#include "quant/domain_shift.h"

#include <gtest/gtest.h>

#include <random>

#include "unit/model/golden.h"

namespace awq::testing {
namespace {

TEST(DomainShift, DistanceIsTheShareThatLiesElsewhere) {
  EXPECT_EQ(moment_distance({1, 1}, {3, 3}), 0);
  EXPECT_EQ(moment_distance({1, 0}, {0, 5}), 1);
  EXPECT_DOUBLE_EQ(moment_distance({3, 1}, {1, 1}), 0.25);
  EXPECT_EQ(moment_distance({0, 0}, {1, 1}), 0);
}

TokenSequences random_text(int32_t low, int32_t high, uint32_t seed) {
  std::mt19937 rng(seed);
  TokenSequences out;
  for (int s = 0; s < 20; ++s) {
    out.lengths.push_back(48);
    for (int i = 0; i < 48; ++i) out.ids.push_back(low + static_cast<int32_t>(rng() % static_cast<uint32_t>(high - low)));
  }
  return out;
}

TEST(DomainShift, TheTextItselfIsNotFar) {
  const auto checkpoint = Checkpoint::open(golden_root() / "llama-untied");
  const auto config = std::make_shared<const ModelConfig>(parse_model_config(checkpoint->config(), "config.json"));
  const Tensor embedding = load_embedding(*checkpoint, *config);
  const TokenSequences calibration = random_text(3, 60, 1), alike = random_text(3, 60, 2), other = random_text(100, 110, 3);
  const std::vector<TokenSequences> texts = {calibration, alike, other};
  ShiftMeter meter(texts, *config, embedding);
  HiddenStates states(calibration, *config, embedding);
  Scratch scratch;
  for (int64_t i = 0; i < config->layers; ++i) {
    const BlockSpec spec = find_arch(config->model_type, "config.json").block(*config, i);
    const Block block(config, spec, load_block(*checkpoint, *config, spec, false), Precision::kExact);
    StatsObserver stats(false);
    states.advance(block, scratch, &stats);
    meter.next(block, stats);
  }
  const auto& shifts = meter.shifts();
  ASSERT_EQ(shifts.size(), 3u);
  ASSERT_EQ(shifts[0].sites.size(), static_cast<size_t>(config->layers));
  EXPECT_LT(shifts[0].mean(), 1e-4);
  EXPECT_LT(shifts[1].mean(), 0.1);
  EXPECT_GT(shifts[2].mean(), 3 * shifts[1].mean());
  EXPECT_GE(shifts[2].largest().distance, shifts[2].mean());
}

}  // namespace
}  // namespace awq::testing
