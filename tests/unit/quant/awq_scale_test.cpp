// The scale search against AutoAWQ's rule as an independent numpy program states it (tests/oracle/autoawq_rule.py),
// on equal inputs, and its promises: exact folds, shared channels, sane results on degenerate inputs.
#include "quant/awq_scale.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <random>

#include "base/half.h"
#include "formats/safetensors.h"
#include "kernels/quant_ops.h"

namespace awq {
namespace {

struct Fixture {
  std::vector<GroupLinear> linears;
  SiteStats stats;
  ScaleSearch search;
  std::vector<float> scales;
  double ratio = 0, gram_loss = 0, gram_loss_rtn = 0;
};

SiteStats stats_of(const Tensor& x) {
  StatsObserver observer(false);
  observer.on_input(0, Site::kMlpIn, x.f32(), x.dim(0), x.dim(1));
  return observer.at(Site::kMlpIn);
}

Fixture load(const std::filesystem::path& path) {
  const auto file = SafetensorsFile::open(path);
  const auto tensor = [&](const char* name) { return file->tensor(*file->find(name)).to_f32(); };
  Fixture f;
  f.stats = stats_of(tensor("X"));
  f.search.scheme = {CodeKind::kAffine, std::stoi(file->metadata().at("bits")), std::stoi(file->metadata().at("group_size")),
                     ZeroKind::kInteger};
  for (const SafetensorsEntry& e : file->entries()) {
    if (!e.name.ends_with(".weight")) continue;
    const std::string role = e.name.substr(0, e.name.size() - 7);
    f.linears.push_back({role, file->tensor(e).to_f32(), true, role != "q_proj" && role != "k_proj"});
  }
  const Tensor scales = tensor("scales");
  f.scales.assign(scales.f32(), scales.f32() + scales.numel());
  f.ratio = tensor("ratio").f32()[0];
  f.gram_loss = tensor("gram_loss").f32()[0];
  f.gram_loss_rtn = tensor("gram_loss_rtn").f32()[0];
  return f;
}

std::vector<std::filesystem::path> fixtures() {
  std::vector<std::filesystem::path> paths;
  for (const auto& e : std::filesystem::directory_iterator(AWQ_TEST_DATA "/golden/rule"))
    if (e.path().extension() == ".safetensors") paths.push_back(e.path());
  return paths;
}

// tr(E G Eᵀ) in double, from the rounded weights back in the unscaled space.
double exact_loss(const Fixture& f, const ScaleChoice& choice) {
  double total = 0;
  const int64_t k = f.stats.dim;
  for (const GroupLinear& l : f.linears) {
    const QuantWeight& q = choice.rounded.at(l.module);
    std::vector<float> w(static_cast<size_t>(q.rows * k));
    dequantize(q, w.data());
    const float* original = std::as_const(l.weight).f32();
    for (int64_t r = 0; r < q.rows; ++r) {
      std::vector<double> e(static_cast<size_t>(k));
      for (int64_t i = 0; i < k; ++i) e[i] = original[r * k + i] - static_cast<double>(w[r * k + i]) / choice.scale[i];
      for (int64_t i = 0; i < k; ++i)
        for (int64_t j = 0; j < k; ++j) total += e[i] * f.stats.gram[i * k + j] * e[j];
    }
  }
  return total;
}

TEST(AwqScale, NeverWorseThanAutoAwqsRuleOnEqualInputs) {
  const auto paths = fixtures();
  ASSERT_GE(paths.size(), 8u);
  for (const auto& path : paths) {
    const Fixture f = load(path);
    const ScaleChoice choice = search_scale(f.linears, f.stats, f.search);
    EXPECT_LE(exact_loss(f, choice), f.gram_loss) << path.filename();
    EXPECT_NEAR(choice.loss, exact_loss(f, choice), 1e-3 * choice.loss) << path.filename();
  }
}

TEST(AwqScale, FormulaGivesTheRecordedScales) {
  for (const auto& path : fixtures()) {
    const Fixture f = load(path);
    const auto w = awq_weight_mean(f.linears, f.search.scheme.group);
    const auto s = awq_scale(f.stats.abs_mean(), w, f.ratio);
    for (size_t k = 0; k < s.size(); ++k) ASSERT_NEAR(s[k], f.scales[k], 2e-5 * f.scales[k]) << path.filename() << " channel " << k;
  }
}

// AutoAWQ does not widen ranges to zero, we do: results differ where a group's weights have one sign.
bool has_one_signed_group(const Fixture& f) {
  for (const GroupLinear& l : f.linears) {
    const float* w = std::as_const(l.weight).f32();
    for (int64_t at = 0; at < l.weight.numel(); at += f.search.scheme.group) {
      const auto [low, high] = std::minmax_element(w + at, w + at + f.search.scheme.group);
      if (*low > 0 || *high < 0) return true;
    }
  }
  return false;
}

// What we call AutoAWQ's rule in reports is what the oracle computes; ties of zero points may fall differently.
TEST(AwqScale, ReportsTheLossOfAutoAwqsRule) {
  int compared = 0;
  for (const auto& path : fixtures()) {
    const Fixture f = load(path);
    const ScaleChoice choice = search_scale(f.linears, f.stats, f.search);
    EXPECT_LE(choice.awq_loss, 1.03 * f.gram_loss) << path.filename();
    if (!has_one_signed_group(f)) {
      EXPECT_NEAR(choice.awq_loss, f.gram_loss, 0.03 * f.gram_loss) << path.filename();
      ++compared;
    }
    EXPECT_LT(choice.loss, f.gram_loss_rtn) << path.filename();
  }
  EXPECT_GE(compared, 5);
}

TEST(AwqScale, FoldedNormGainsAreExactValuesOfTheirType) {
  Fixture f = load(fixtures().front());
  std::mt19937 rng(7);
  std::normal_distribution<float> normal(1.0f, 0.3f);
  std::vector<float> gain(static_cast<size_t>(f.stats.dim));
  for (float& g : gain) g = normal(rng);
  gain[3] = 0;  // a dead channel must not become a division by zero
  const std::pair<DType, float> kinds[] = {{DType::kF16, 0.0f}, {DType::kBF16, 0.0f}, {DType::kF16, 1.0f}, {DType::kBF16, 1.0f}};
  for (const auto& [dtype, offset] : kinds) {
    f.search.norm_gain = gain.data();
    f.search.norm_dtype = dtype;
    f.search.norm_offset = offset;  // gemma stores gain - 1
    const ScaleChoice choice = search_scale(f.linears, f.stats, f.search);
    for (size_t k = 0; k < gain.size(); ++k) {
      const float folded = gain[k] / choice.scale[k] - offset;
      const float stored = dtype == DType::kF16 ? round_to_fp16(folded) : round_to_bf16(folded);
      ASSERT_NEAR((stored + offset) * choice.scale[k], gain[k], 2e-7f * std::fabs(gain[k])) << "channel " << k;
      ASSERT_GT(choice.scale[k], 0);
    }
  }
}

TEST(AwqScale, ChannelsThatShareAnOwnerShareTheScale) {
  Fixture f = load(AWQ_TEST_DATA "/golden/rule/o-w4g32.safetensors");
  f.search.channel_owner.resize(static_cast<size_t>(f.stats.dim));
  for (int64_t k = 0; k < f.stats.dim; ++k) f.search.channel_owner[k] = static_cast<int32_t>(k / 64 * 32 + k % 32);
  const ScaleChoice choice = search_scale(f.linears, f.stats, f.search);
  for (int64_t k = 0; k < f.stats.dim; ++k)
    for (int64_t j = 0; j < k; ++j)
      if (f.search.channel_owner[k] == f.search.channel_owner[j]) {
        ASSERT_EQ(choice.scale[k], choice.scale[j]);
      }
  EXPECT_LE(choice.loss, choice.awq_loss);
}

TEST(AwqScale, DegenerateInputsGiveFiniteResults) {
  const int64_t k = 64, n = 32;
  struct Case {
    const char* name;
    float weight, x;
  };
  for (const Case c : {Case{"zero weights", 0, 1}, Case{"constant weights", 0.5f, 1}, Case{"never activated", 0.5f, 0},
                       Case{"negative weights", -3, 1}, Case{"huge activations", 0.1f, 3e4f}}) {
    Tensor w(DType::kF32, {n, k}), x(DType::kF32, {16, k});
    for (int64_t i = 0; i < n * k; ++i) w.f32()[i] = c.weight;
    for (int64_t i = 0; i < 16 * k; ++i) x.f32()[i] = c.x * static_cast<float>(1 + i % 3);
    ScaleSearch search;
    search.scheme = {CodeKind::kAffine, 4, 32, ZeroKind::kInteger};
    const std::vector<GroupLinear> linears = {{"w", w, true, true}};
    const ScaleChoice choice = search_scale(linears, stats_of(x), search);
    ASSERT_TRUE(std::isfinite(choice.loss)) << c.name;
    check_consistent(choice.rounded.at("w"));
    for (float s : choice.scale) ASSERT_TRUE(std::isfinite(s) && s > 0) << c.name;
    for (float s : choice.rounded.at("w").scales) ASSERT_GT(s, 0) << c.name;
  }
}

}  // namespace
}  // namespace awq
