// AWQ's per-channel scales (Lin et al. 2024, section 3.2) for the linears that read one site: a scale s multiplies the
// columns of the weights and is undone exactly in what produces the site. Candidates are compared by the Gram loss.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "kernels/quant_backend.h"
#include "model/model.h"
#include "quant/stats.h"

namespace awq {

// One linear of a scale group as the search sees it.
struct GroupLinear {
  std::string module;
  QuantMatrix weight;       // [out, in]
  bool quantized = true;    // skipped linears are scaled along but do not count
  bool clip_in_awq = true;  // AutoAWQ leaves the ranges of q and k alone
};

struct ScaleChoice {
  std::vector<float> scale;                    // [in]
  std::map<std::string, RoundedWeight> rounded;  // the winning rounding of each quantized linear, of weight * scale
  double loss = 0;                             // Gram loss of the group with `rounded`
  double awq_loss = 0;                         // the same of AutoAWQ's rule (its grid, its clip) on the same inputs
  bool free_range = false;                     // ranges searched freely; false: AutoAWQ's clip won
  std::string chosen;                          // "x^0.55/w^0.45, free range", for the report
};

struct ScaleSearch {
  Scheme scheme;
  DType scale_dtype = DType::kF16;
  // Channels that must share a scale: channel_owner[k] is the index of the shared scale of channel k (grouped queries);
  // empty when every channel is free.
  std::vector<int32_t> channel_owner;
  // When the producer is a norm stored in `norm_dtype` with gain g, candidates are moved so that g / s - norm_offset is exactly a value
  // of that type: the fold then loses nothing. Null when the producer is a linear.
  const float* norm_gain = nullptr;
  DType norm_dtype = DType::kF16;
  float norm_offset = 0;
  // Only the two best candidates are rounded in full beside AutoAWQ's rule, and compared by products that may be bf16; otherwise
  // three, and the best of AutoAWQ's grid and the identity where they are not among them.
  bool quick = false;
};

// Never worse in Gram loss than AutoAWQ's rule, identity included among the candidates.
ScaleChoice search_scale(const std::vector<GroupLinear>& linears, const SiteStats& stats, const ScaleSearch& search,
                         QuantBackend& backend = cpu_quant_backend());

// AutoAWQ's formula: s = x̄^r / (w̄^(1-r) + 1e-4), at least 1e-4, divided by sqrt(max s * min s); x_mean, w_mean [in].
std::vector<float> awq_scale(const std::vector<float>& x_mean, const std::vector<float>& w_mean, double ratio);
// w̄: mean over all rows of |w| divided by the largest |w| of its group.
std::vector<float> awq_weight_mean(const std::vector<GroupLinear>& linears, int64_t group, QuantBackend& backend = cpu_quant_backend());

// Undoes `scale` in the producer of `group` and applies it to the consumers' columns. gain, weights and biases belong to
// the block; norm gains are divided, rows of v_proj or up_proj (and their biases) too.
void apply_scale(const ScaleGroup& group, const std::vector<float>& scale, const ModelConfig& config, BlockWeights& block);
// The same where the weights are matrices of `backend`; norms and biases stay in `block`.
using BlockMatrices = std::map<std::string, QuantMatrix>;  // by module
void apply_scale(const ScaleGroup& group, const std::vector<float>& scale, const ModelConfig& config, BlockWeights& block,
                 BlockMatrices& weights, QuantBackend& backend);

}  // namespace awq
