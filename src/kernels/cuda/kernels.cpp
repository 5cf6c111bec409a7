#include "kernels/cuda/kernels.h"

namespace awq::cuda {

cudaError_t launch_gemv(int config, Act act, const LinearArgs& args, cudaStream_t stream) {
  const bool f16 = act == Act::kF16;
  const auto launch = args.w.format == Format::kAffine8 ? (f16 ? launch_gemv_w8_f16 : launch_gemv_w8_bf16)
                      : args.w.format == Format::kNf4   ? (f16 ? launch_gemv_nf4_f16 : launch_gemv_nf4_bf16)
                                                        : (f16 ? launch_gemv_f16 : launch_gemv_bf16);
  return launch(config, args, stream);
}

cudaError_t launch_gemm_sm90(int config, Act act, const LinearArgs& args, const GemmPlan& plan,
                             const CUtensorMap& codes_map, const CUtensorMap& x_map, cudaStream_t stream) {
  return act == Act::kF16 ? launch_gemm_sm90_f16(config, args, plan, codes_map, x_map, stream)
                          : launch_gemm_sm90_bf16(config, args, plan, codes_map, x_map, stream);
}

}  // namespace awq::cuda
