#include "quant/rounders.h"

#include <cmath>
#include <limits>
#include <optional>

#include "base/half.h"
#include "base/thread_pool.h"

namespace awq {

double relative_error(const Tensor& weight, const Tensor& rounded, const SiteStats& stats) {
  if (stats.tokens == 0) return std::numeric_limits<double>::quiet_NaN();
  Tensor error(DType::kF32, weight.shape());
  float* e = error.f32();
  const float *w = weight.f32(), *r = rounded.f32();
  parallel_chunks(weight.numel(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) e[i] = w[i] - r[i];
  });
  const double energy = gram_loss(weight.f32(), weight.dim(0), weight.dim(1), stats.gram.data());
  return energy > 0 ? gram_loss(e, weight.dim(0), weight.dim(1), stats.gram.data()) / energy : 0;
}

double relative_error(const Tensor& weight, const QuantWeight& q, const SiteStats& stats) {
  if (stats.tokens == 0) return std::numeric_limits<double>::quiet_NaN();
  Tensor rounded(DType::kF32, weight.shape());
  dequantize(q, rounded.f32());
  return relative_error(weight, std::as_const(rounded), stats);
}

double relative_error(const QuantMatrix& weight, const RoundedWeight& q, const GramView& gram, QuantBackend& backend) {
  const double energy = backend.energy(weight, gram);
  return energy > 0 ? backend.loss(weight, q, gram) / energy : 0;
}

// The statistics of x / s.
SiteStats scaled_stats(const SiteStats& stats, const std::vector<float>& s) {
  SiteStats out = stats;
  out.gram = cpu_quant_backend().scaled_gram(stats.view(), s).host;
  for (int64_t i = 0; i < stats.dim; ++i) {
    const float a = 1.0f / s[i];
    out.abs_sum[i] *= a;
    out.channel_max[i] *= a;
  }
  return out;
}

bool any_quantized(const RoundingContext& context, int64_t layer, const ScaleGroup& group) {
  for (const std::string& module : group.consumers)
    if (context.plan.linear(layer, module).quantized) return true;
  return false;
}

BlockMatrices shared_matrices(const BlockWeights& block) {
  BlockMatrices out;
  for (const auto& [module, weight] : block.weights) out.emplace(module, std::get<Tensor>(weight));
  return out;
}

void make_fold_exact(const float* gain, float offset, DType dtype, std::vector<float>& s) {
  for (size_t k = 0; k < s.size(); ++k) {
    const float folded = gain[k] / s[k] - offset;
    const float stored = dtype == DType::kBF16  ? round_to_bf16(folded)
                         : dtype == DType::kF16 ? round_to_fp16(folded)
                                                : folded;
    const float exact = gain[k] / (stored + offset);
    s[k] = std::isfinite(exact) && exact > 0 ? exact : 1.0f;
  }
}

namespace {

constexpr int kSweeps = 2;  // passes of coordinate descent after GPTQ and after each turn of the scales
constexpr int kRefits = 2;  // turns of the scales

// Query heads that share a key/value head share their scales; empty when every head has its own.
std::vector<int32_t> owners(const ScaleGroup& group, const ModelConfig& c) {
  if (group.fold != Fold::kKvHeads || c.heads == c.kv_heads) return {};
  std::vector<int32_t> owner(static_cast<size_t>(c.heads * c.head_dim));
  const int64_t repeat = c.heads / c.kv_heads;
  for (int64_t k = 0; k < static_cast<int64_t>(owner.size()); ++k)
    owner[k] = static_cast<int32_t>(k / c.head_dim / repeat * c.head_dim + k % c.head_dim);
  return owner;
}

struct GroupResult {
  const ScaleGroup* group;
  ScaleChoice choice;
};

std::vector<GroupLinear> group_linears(const RoundingContext& context, int64_t layer, const ScaleGroup& group,
                                       const BlockMatrices& weights) {
  std::vector<GroupLinear> linears;
  for (const std::string& module : group.consumers) {
    const PlannedLinear& l = context.plan.linear(layer, module);
    linears.push_back({module, weights.at(module), l.quantized,
                       l.spec.role != "q_proj" && l.spec.role != "k_proj"});
  }
  return linears;
}

GroupResult search_group(const RoundingContext& context, int64_t layer, const ScaleGroup& group,
                         const StatsObserver& stats, const BlockWeights& block, const BlockMatrices& weights) {
  const auto linears = group_linears(context, layer, group, weights);
  ScaleSearch search;
  for (const std::string& module : group.consumers)  // one scheme for all that are quantized: the plan sees to it
    if (const PlannedLinear& l = context.plan.linear(layer, module); l.quantized) search.scheme = l.scheme;
  search.scale_dtype = context.dtype;
  search.channel_owner = owners(group, context.plan.config);
  search.quick = context.options.quality == "fast";
  if (group.fold == Fold::kNorm) {
    search.norm_gain = block.norms.at(group.producer).f32();
    search.norm_dtype = context.dtype;
    search.norm_offset = context.plan.config.norm_offset;
  }
  return {&group, search_scale(linears, stats.at(group.site), search, context.backend)};
}

LayerReport report(const RoundingContext& context, int64_t layer, const GroupResult& r, const std::string& module, const QuantMatrix& weight,
                   const RoundedWeight& q, const GramView& gram) {
  return {layer, module, relative_error(weight, q, gram, context.backend), r.choice.loss, r.choice.awq_loss,
          r.choice.chosen + (context.options.quality != "fast" ? ", compensated" : "")};
}

// The block as it will be read runs with the codes of `rounding`, which change.
TuningOutcome tune(const RoundingContext& context, const BlockSpec& spec, const BlockWeights& block, BlockRounding& rounding) {
  const auto as_read = [&](const Tensor& t) { return t.to(context.dtype).to_f32(); };
  BlockWeights read = block;
  for (auto& [name, gain] : read.norms) gain = as_read(gain);
  for (auto& [module, bias] : read.biases) bias = as_read(bias);
  for (auto& [module, weight] : read.weights)
    if (!rounding.quantized.contains(module)) weight = as_read(std::get<Tensor>(weight));
  return tune_block(context.plan.config, spec, read, *context.tuning, rounding.quantized);
}

}  // namespace

BlockRounding round_awq(const RoundingContext& context, int64_t layer, const BlockSpec& spec,
                        const StatsObserver& stats, BlockWeights& block) {
  QuantBackend& backend = context.backend;
  BlockMatrices own;
  if (context.matrices == nullptr) own = shared_matrices(block);
  BlockMatrices& weights = context.matrices == nullptr ? own : *context.matrices;
  // All groups are searched on the unscaled weights, as their statistics are, then all are folded.
  std::vector<GroupResult> results;
  for (const ScaleGroup& group : spec.scale_groups)
    if (any_quantized(context, layer, group))
      results.push_back(search_group(context, layer, group, stats, block, weights));
  for (const GroupResult& r : results)
    apply_scale(*r.group, r.choice.scale, context.plan.config, block, weights, backend);

  const bool compensates = context.options.quality != "fast";
  BlockRounding out;
  for (GroupResult& r : results) {
    const GramMatrix scaled = backend.scaled_gram(stats.at(r.group->site).view(), r.choice.scale);
    std::unique_ptr<Compensator> compensation;
    if (compensates) compensation = backend.compensation(scaled.view(), kDamping);
    for (auto& [module, q] : r.choice.rounded) {
      const QuantMatrix& weight = weights.at(module);
      // A producer's rows were divided after its own search: its ranges are searched again.
      bool rows_changed = false;
      for (const GroupResult& other : results) rows_changed |= other.group->producer == module;
      if (rows_changed)
        q = backend.search(weight, q.scheme, context.dtype, scaled.view(),
                           r.choice.free_range ? RangeEffort::kFull : RangeEffort::kAwqClip);
      if (compensation) compensation->improve(weight, kSweeps, kRefits, q);
      if (context.tuning == nullptr) out.reports.push_back(report(context, layer, r, module, weight, q, scaled.view()));
      out.quantized.emplace(module, std::move(q));
    }
  }
  if (context.tuning == nullptr) return out;
  const TuningOutcome tuned = tune(context, spec, block, out);
  for (const GroupResult& r : results) {
    const GramMatrix scaled = backend.scaled_gram(stats.at(r.group->site).view(), r.choice.scale);
    for (const auto& [module, before] : r.choice.rounded) {
      LayerReport line = report(context, layer, r, module, weights.at(module), out.quantized.at(module), scaled.view());
      line.chosen += fmt::format(", tuned: block loss x{:.3f}", tuned.before > 0 ? tuned.after / tuned.before : 1.0);
      out.reports.push_back(std::move(line));
    }
  }
  return out;
}

}  // namespace awq
