// Folded scales are found again, from plain and from rounded weights.
#include "quant/unfold.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "kernels/quant_ops.h"
#include "quant/awq_scale.h"
#include "unit/model/golden.h"

namespace awq::testing {
namespace {

struct Folded {
  BlockSpec spec;
  ModelConfig config;
  BlockWeights source, folded;
  std::vector<std::vector<float>> scales;
};

Folded fold(const std::string& name) {
  const auto checkpoint = Checkpoint::open(golden_root() / name);
  Folded f;
  f.config = parse_model_config(checkpoint->config(), checkpoint->path().string());
  f.spec = find_arch(f.config.model_type, "config.json").block(f.config, 0);
  f.source = load_block(*checkpoint, f.config, f.spec, true);
  f.folded = load_block(*checkpoint, f.config, f.spec, true);
  std::mt19937 rng(7);
  std::normal_distribution<float> normal;
  for (const ScaleGroup& group : f.spec.scale_groups) {
    std::vector<float> s(static_cast<size_t>(std::get<Tensor>(f.source.weights.at(group.consumers.front())).dim(1)));
    for (float& v : s) v = std::exp(0.7f * normal(rng));
    if (group.fold == Fold::kKvHeads) {
      const int64_t shared = f.config.heads / f.config.kv_heads * f.config.head_dim;
      for (int64_t k = 0; k < static_cast<int64_t>(s.size()); ++k) s[k] = s[k / shared * shared + k % f.config.head_dim];
    }
    apply_scale(group, s, f.config, f.folded);
    f.scales.push_back(std::move(s));
  }
  return f;
}

double worst(const std::vector<std::vector<float>>& a, const std::vector<std::vector<float>>& b) {
  double out = 0;
  for (size_t g = 0; g < a.size(); ++g)
    for (size_t k = 0; k < a[g].size(); ++k) out = std::max(out, std::fabs(std::log(static_cast<double>(a[g][k]) / b[g][k])));
  return out;
}

class Unfold : public ::testing::TestWithParam<std::string> {};

TEST_P(Unfold, FindsTheScalesOfPlainWeights) {
  const Folded f = fold(GetParam());
  EXPECT_LT(worst(recover_scales(f.spec, f.config, f.source, f.folded, "folded"), f.scales), 1e-5);
  for (const auto& s : recover_scales(f.spec, f.config, f.source, f.source, "source"))
    for (const float v : s) EXPECT_NEAR(v, 1.0f, 1e-6);
}

TEST_P(Unfold, FindsTheScalesOfRoundedWeights) {
  Folded f = fold(GetParam());
  for (auto& [module, weight] : f.folded.weights) {
    Tensor& w = std::get<Tensor>(weight);
    dequantize(quantize_minmax(w.f32(), w.dim(0), w.dim(1), {CodeKind::kAffine, 4, 8, ZeroKind::kInteger}, DType::kF16), w.f32());
  }
  EXPECT_LT(worst(recover_scales(f.spec, f.config, f.source, f.folded, "folded"), f.scales), 0.06);
}

INSTANTIATE_TEST_SUITE_P(Architectures, Unfold, ::testing::ValuesIn(golden_names(false)),
                         [](const auto& given) { return test_name(given.param); });

TEST(Unfold, RefusesAnotherModelsBlock) {
  Folded f = fold("llama-tied");
  f.folded.norms.at(f.spec.input_norm).f32()[3] *= -1;
  EXPECT_THROW(recover_scales(f.spec, f.config, f.source, f.folded, "other"), Error);
}

}  // namespace
}  // namespace awq::testing
