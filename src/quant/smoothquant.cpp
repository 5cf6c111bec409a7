// SmoothQuant (Xiao et al. 2023): activations and weights in int8, with s_k = max|x_k|^a / max|w_k|^(1-a) moved from the
// inputs of the linears behind a norm into their weights. The exponent is found per scale group on a sample of tokens, by the
// error of the products themselves; 1 and no smoothing at all are among the candidates.
#include <cmath>

#include "kernels/linear.h"
#include "kernels/quant_ops.h"
#include "quant/rounders.h"

namespace awq {
namespace {

constexpr int kSteps = 10;  // exponents 0, 0.1, ... 1
constexpr float kFloor = 1e-5f;

// [rows, cols] stacked, the quantized consumers of the group.
Tensor stacked(const RoundingContext& context, int64_t layer, const ScaleGroup& group, const BlockWeights& block) {
  std::vector<float> rows;
  int64_t cols = 0;
  for (const std::string& module : group.consumers) {
    if (!context.plan.linear(layer, module).quantized) continue;
    const Tensor& w = std::get<Tensor>(block.weights.at(module));
    rows.insert(rows.end(), w.f32(), w.f32() + w.numel());
    cols = w.dim(1);
  }
  return Tensor::from(rows, {static_cast<int64_t>(rows.size()) / cols, cols});
}

std::vector<float> smoothing(const SiteStats& stats, const Tensor& w, double exponent) {
  const int64_t cols = w.dim(1);
  std::vector<float> top(static_cast<size_t>(cols), 0.0f), s(top.size());
  const float* from = w.f32();
  for (int64_t n = 0; n < w.dim(0); ++n)
    for (int64_t k = 0; k < cols; ++k) top[k] = std::max(top[k], std::fabs(from[n * cols + k]));
  for (int64_t k = 0; k < cols; ++k) {
    const double x = std::max(stats.channel_max[k], kFloor), t = std::max(top[k], kFloor);
    s[k] = static_cast<float>(std::max(std::pow(x, exponent) / std::pow(t, 1 - exponent), double{kFloor}));
  }
  return s;
}

// Σ (Q(x / s) Q(w s)ᵀ - x wᵀ)² over the sample.
double product_error(const SiteStats& stats, const Tensor& w, const std::vector<float>& s, const Scheme& scheme, DType dtype,
                     const std::vector<float>& exact) {
  const int64_t rows = w.dim(0), cols = w.dim(1);
  Tensor scaled = w.clone();
  multiply_columns(scaled.f32(), rows, cols, s.data());
  std::vector<float> x = stats.sample, y(exact.size());
  for (size_t i = 0; i < x.size(); ++i) x[i] /= s[i % cols];
  pack_linear(quantize_absmax(scaled.f32(), rows, cols, scheme, dtype), Precision::kExact)->run(x.data(), stats.sample_tokens, y.data(), rows);
  double sum = 0;
  for (size_t i = 0; i < y.size(); ++i) sum += (double{y[i]} - exact[i]) * (double{y[i]} - exact[i]);
  return sum;
}

struct Smoothing {
  const ScaleGroup* group;
  std::vector<float> scale;
  std::string chosen;
};

Smoothing search(const RoundingContext& context, int64_t layer, const ScaleGroup& group, const SiteStats& stats, const BlockWeights& block) {
  const Tensor w = stacked(context, layer, group, block);
  const float* gain = block.norms.at(group.producer).f32();
  std::vector<float> exact(static_cast<size_t>(stats.sample_tokens * w.dim(0)));
  pack_linear(w, Precision::kExact)->run(stats.sample.data(), stats.sample_tokens, exact.data(), w.dim(0));
  Smoothing best{&group, std::vector<float>(static_cast<size_t>(w.dim(1)), 1.0f), "int8, not smoothed"};
  double least = product_error(stats, w, best.scale, context.plan.scheme, context.dtype, exact);
  for (int i = 0; i <= kSteps; ++i) {
    check_cancelled();
    const double exponent = static_cast<double>(i) / kSteps;
    std::vector<float> s = smoothing(stats, w, exponent);
    make_fold_exact(gain, context.plan.config.norm_offset, context.dtype, s);
    const double error = product_error(stats, w, s, context.plan.scheme, context.dtype, exact);
    if (error < least) least = error, best.scale = std::move(s), best.chosen = fmt::format("int8, smoothed with exponent {:.1f}", exponent);
  }
  return best;
}

}  // namespace

BlockRounding round_smoothquant(const RoundingContext& context, int64_t layer, const BlockSpec& spec, const StatsObserver& stats,
                                BlockWeights& block) {
  std::vector<Smoothing> found;
  for (const ScaleGroup& group : spec.scale_groups)
    if (group.fold == Fold::kNorm && stats.at(group.site).sample_tokens > 0 && any_quantized(context, layer, group))
      found.push_back(search(context, layer, group, stats.at(group.site), block));
  for (const Smoothing& s : found) apply_scale(*s.group, s.scale, context.plan.config, block);

  BlockRounding out;
  for (const PlannedLinear& l : context.plan.blocks[layer]) {
    if (!l.quantized) continue;
    const Tensor& w = std::get<Tensor>(block.weights.at(l.spec.module));
    const SiteStats* site = &stats.at(l.spec.reads);
    std::optional<SiteStats> scaled;
    std::string chosen = "int8, not smoothed";
    for (const Smoothing& s : found)
      if (s.group->site == l.spec.reads) scaled = scaled_stats(*site, s.scale), site = &*scaled, chosen = s.chosen;
    QuantWeight q = quantize_absmax(w.f32(), w.dim(0), w.dim(1), context.plan.scheme, context.dtype);
    out.reports.push_back({layer, l.spec.module, relative_error(w, q, *site), 0, 0, chosen});
    out.quantized.emplace(l.spec.module, std::move(q));
  }
  return out;
}

}  // namespace awq
