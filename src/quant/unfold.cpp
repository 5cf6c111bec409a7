#include "quant/unfold.h"

#include <cmath>

#include "quant/awq_scale.h"

namespace awq {
namespace {

// Sums that tell by which factor b is larger than a, and how badly a multiple of a fits b.
struct Fit {
  double aa = 0, ab = 0, bb = 0;

  void add(double a, double b) { aa += a * a, ab += a * b, bb += b * b; }
  double factor() const { return bb / ab; }  // rounding to the middle of what it rounds leaves this unbiased
  double misfit() const { return aa > 0 && bb > 0 ? std::max(1 - ab * ab / (aa * bb), 1e-9) : 1; }
  bool usable() const { return ab > 0 && bb > 0; }
};

std::vector<float> norm_scales(const Tensor& source, const Tensor& folded, const std::string& name, const std::string& where) {
  std::vector<float> s(static_cast<size_t>(source.numel()), 1.0f);
  for (size_t k = 0; k < s.size(); ++k) {
    const float a = source.f32()[k], b = folded.f32()[k];
    if (a == 0 && b == 0) continue;
    s[k] = a / b;
    if (!(s[k] > 0) || !std::isfinite(s[k]))
      fail(Code::kBadFile, "{}: {}[{}]: expected a positive multiple of the source's {}, got {}", where, name, k, a, b);
  }
  return s;
}

}  // namespace

std::vector<std::vector<float>> recover_scales(const BlockSpec& spec, const ModelConfig& config, const BlockWeights& source,
                                               const BlockWeights& folded, const std::string& where) {
  std::vector<std::vector<float>> scales(spec.scale_groups.size());
  // What has been undone so far: source weights with the scales of norms on their columns.
  BlockWeights partly = source.clone();
  for (size_t g = 0; g < spec.scale_groups.size(); ++g) {
    const ScaleGroup& group = spec.scale_groups[g];
    if (group.fold != Fold::kNorm) continue;
    scales[g] = norm_scales(source.norms.at(group.producer), folded.norms.at(group.producer), group.producer, where);
    apply_scale(group, scales[g], config, partly);
  }
  for (size_t g = 0; g < spec.scale_groups.size(); ++g) {
    const ScaleGroup& group = spec.scale_groups[g];
    if (group.fold == Fold::kNorm) continue;
    const bool shared = group.fold == Fold::kKvHeads;
    const Tensor &from = std::get<Tensor>(partly.weights.at(group.producer)), &to = std::get<Tensor>(folded.weights.at(group.producer));
    const int64_t channels = std::get<Tensor>(source.weights.at(group.consumers.front())).dim(1);
    const int64_t rows = shared ? config.kv_heads * config.head_dim : channels, cols = from.dim(1);
    const int64_t repeat = shared ? config.heads / config.kv_heads : 1;
    const auto row_of = [&](int64_t channel) { return shared ? channel / config.head_dim / repeat * config.head_dim + channel % config.head_dim : channel; };
    // Rows of the producer were divided by the scale, columns of the consumers multiplied: two estimates.
    std::vector<Fit> produced(static_cast<size_t>(rows)), consumed(static_cast<size_t>(rows));
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t k = 0; k < cols; ++k) {
        const int64_t at = (group.producer_row + r) * cols + k;
        produced[r].add(to.f32()[at], from.f32()[at]);
      }
    for (const std::string& module : group.consumers) {
      const Tensor &a = std::get<Tensor>(partly.weights.at(module)), &b = std::get<Tensor>(folded.weights.at(module));
      for (int64_t n = 0; n < a.dim(0); ++n)
        for (int64_t k = 0; k < channels; ++k) consumed[row_of(k)].add(a.f32()[n * channels + k], b.f32()[n * channels + k]);
    }
    std::vector<float> row_scale(static_cast<size_t>(rows), 1.0f);
    for (int64_t r = 0; r < rows; ++r) {
      const Fit &p = produced[r], &c = consumed[r];
      // Rows that are nothing but rounding say nothing; weights say more the better they fit.
      double sum = 0, weight = 0;
      if (p.usable()) sum += std::log(p.ab / p.aa) / p.misfit(), weight += 1 / p.misfit();
      if (c.usable()) sum += std::log(c.factor()) / c.misfit(), weight += 1 / c.misfit();
      if (weight > 0) row_scale[r] = static_cast<float>(std::exp(sum / weight));
    }
    scales[g].resize(static_cast<size_t>(channels));
    for (int64_t k = 0; k < channels; ++k) scales[g][k] = row_scale[row_of(k)];
    apply_scale(group, scales[g], config, partly);
  }
  return scales;
}

}  // namespace awq
