// Which kernel multiplies a packed weight with so many tokens.
#pragma once
#include "kernels/cuda/kernels.h"

namespace awq::cuda {

struct DeviceTraits {
  int multiprocessors = 0;
  int shared_bytes = 0;  // of a block at most
  bool hopper = false;   // 9.0: clusters, tensor copies, wgmma
};

enum class Way : uint8_t {
  kGemv,   // gemv.cuh, config of gemv_configs()
  kGemm,   // gemm_sm90.cuh, config of gemm_configs(), dealt out as plan says
  kDense,  // dequantize slices and multiply them with cuBLAS
};

struct Choice {
  Way way = Way::kDense;
  int config = 0;
  int tokens = 0;  // multiplied at a time; the others follow
  GemmPlan plan;   // of kGemm
};

// tokens >= 1.
Choice pick(const DeviceTraits& device, const PackedView& w, int64_t tokens);
// The same for the invariant mode: the order of a token's sums depends on w's shape alone. choice.tokens of them come first; pick
// again for the others.
Choice pick_invariant(const DeviceTraits& device, const PackedView& w, int64_t tokens);
// Of a dense w on Hopper: a configuration of kDenseGemmConfigs and its plan.
Choice pick_invariant_dense(const PackedView& w, int64_t tokens);
// The plan of a GEMM configuration.
GemmPlan plan_gemm(const DeviceTraits& device, const PackedView& w, int64_t tokens, const GemmConfig& config);

}  // namespace awq::cuda
