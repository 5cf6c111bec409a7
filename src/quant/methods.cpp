// The index of rounders, and those that need a few lines: rounding to nearest in its forms, and GPTQ.
#include <array>
#include <cmath>
#include <map>

#include "kernels/quant_ops.h"
#include "quant/rounders.h"

namespace awq {
namespace {

struct Rounder {
  const char* method;
  RoundBlock* round;
};
const Rounder kRounders[] = {{"awq", round_awq},
                             {"autoawq", round_autoawq},
                             {"gptq", round_gptq},
                             {"rtn", round_rtn},
                             {"nf4", round_nf4},
                             {"smoothquant", round_smoothquant},
                             {"llm-int8", round_llm_int8}};

// round(weight, linear) -> RoundedWeight for every planned linear, no transform; the weights are where the context's backend is.
template <class Round>
BlockRounding round_each(const RoundingContext& context, int64_t layer, const StatsObserver& stats, const BlockWeights& block,
                               const char* chosen, const Round& round) {
  BlockMatrices own;
  if (context.matrices == nullptr) own = shared_matrices(block);
  const BlockMatrices& weights = context.matrices == nullptr ? own : *context.matrices;
  BlockRounding out;
  for (const PlannedLinear& l : context.plan.blocks[layer]) {
    if (!l.quantized) continue;
    check_cancelled();
    const QuantMatrix& weight = weights.at(l.spec.module);
    const SiteStats& site = stats.at(l.spec.reads);
    RoundedWeight q = round(weight, l);
    const double error = site.tokens == 0 ? NAN : relative_error(weight, q, site.view(), context.backend);
    out.reports.push_back({layer, l.spec.module, error, 0, 0, chosen});
    out.quantized.emplace(l.spec.module, std::move(q));
  }
  return out;
}

}  // namespace

BlockRounding round_rtn(const RoundingContext& context, int64_t layer, const BlockSpec&, const StatsObserver& stats, BlockWeights& block) {
  return round_each(context, layer, stats, block, "round to nearest", [&](const QuantMatrix& w, const PlannedLinear& l) {
    return context.backend.minmax(w, l.scheme, context.dtype);
  });
}

BlockRounding round_nf4(const RoundingContext& context, int64_t layer, const BlockSpec&, const StatsObserver& stats, BlockWeights& block) {
  return round_each(context, layer, stats, block, "nearest NF4 code", [&](const Tensor& w, const PlannedLinear& l) {
    return quantize_nf4(w.f32(), w.dim(0), w.dim(1), l.scheme);
  });
}

BlockRounding round_llm_int8(const RoundingContext& context, int64_t layer, const BlockSpec&, const StatsObserver& stats, BlockWeights& block) {
  return round_each(context, layer, stats, block, "int8 per output", [&](const Tensor& w, const PlannedLinear& l) {
    return quantize_absmax(w.f32(), w.dim(0), w.dim(1), l.scheme, DType::kF32);
  });
}

// GPTQ (Frantar et al. 2023): ranges of rounding to nearest, columns in order of activation with static groups. A row whose
// loss does not fall keeps the nearest codes.
BlockRounding round_gptq(const RoundingContext& context, int64_t layer, const BlockSpec&, const StatsObserver& stats, BlockWeights& block) {
  std::map<Site, std::unique_ptr<Compensator>> factors;
  const char* chosen = "GPTQ, static groups in order of activation";
  return round_each(context, layer, stats, block, chosen, [&](const QuantMatrix& w, const PlannedLinear& l) {
    const SiteStats& site = stats.at(l.spec.reads);
    RoundedWeight q = context.backend.minmax(w, l.scheme, context.dtype);
    if (site.tokens == 0) return q;
    std::unique_ptr<Compensator>& factor = factors[l.spec.reads];
    if (!factor) factor = context.backend.compensation(site.view(), kDamping);
    factor->improve(w, 0, 0, q);
    return q;
  });
}

BlockRounding round_block(const RoundingContext& context, int64_t layer, const BlockSpec& spec, const StatsObserver& stats, BlockWeights& block) {
  for (const Rounder& r : kRounders)
    if (context.options.method == r.method) return r.round(context, layer, spec, stats, block);
  fail(Code::kInternal, "internal error: no rounder for method {}", context.options.method);
}

}  // namespace awq
