// Private to quant/: the methods behind round_block, one file each, and what they share.
#pragma once
#include "quant/rounding.h"

namespace awq {

using RoundBlock = BlockRounding(const RoundingContext& context, int64_t layer, const BlockSpec& spec, const StatsObserver& stats,
                                 BlockWeights& block);
RoundBlock round_awq, round_autoawq, round_rtn, round_nf4, round_llm_int8, round_gptq, round_smoothquant;

// The CPU's matrices: they share the block's numbers.
BlockMatrices shared_matrices(const BlockWeights& block);
bool any_quantized(const RoundingContext& context, int64_t layer, const ScaleGroup& group);
// tr(E G Eᵀ) / tr(W G Wᵀ); NaN without tokens.
double relative_error(const Tensor& weight, const QuantWeight& q, const SiteStats& stats);
double relative_error(const Tensor& weight, const Tensor& rounded, const SiteStats& stats);
// The same of a matrix of `backend`; gram is that of its inputs.
double relative_error(const QuantMatrix& weight, const RoundedWeight& q, const GramView& gram, QuantBackend& backend);
// The statistics of x / s.
SiteStats scaled_stats(const SiteStats& stats, const std::vector<float>& s);
// s moved so that gain / s - offset is exactly a value of `dtype`: a fold into a norm stored so loses nothing.
void make_fold_exact(const float* gain, float offset, DType dtype, std::vector<float>& s);

// GPTQ's usual share of the Gram matrix's mean diagonal.
inline constexpr double kDamping = 0.01;

}  // namespace awq
