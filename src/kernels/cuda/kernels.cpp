#include "kernels/cuda/kernels.h"

namespace awq::cuda {
namespace {

// The one of a format and an activation type.
template <class Launch>
Launch* chosen(Format format, Act act, Launch* const (&launches)[3][2]) {
  return launches[static_cast<int>(format)][act == Act::kF16 ? 0 : 1];
}

}  // namespace

cudaError_t launch_gemv(int config, Act act, const LinearArgs& args, cudaStream_t stream) {
  static constexpr LaunchGemv* kLaunches[3][2] = {
      {launch_gemv_f16, launch_gemv_bf16}, {launch_gemv_w8_f16, launch_gemv_w8_bf16}, {launch_gemv_nf4_f16, launch_gemv_nf4_bf16}};
  return chosen(args.w.format, act, kLaunches)(config, args, stream);
}

cudaError_t launch_gemm_sm90(int config, Act act, const LinearArgs& args, const GemmPlan& plan,
                             const CUtensorMap& codes_map, const CUtensorMap& x_map, cudaStream_t stream) {
  static constexpr LaunchGemm* kLaunches[3][2] = {{launch_gemm_sm90_f16, launch_gemm_sm90_bf16},
                                                  {launch_gemm_sm90_w8_f16, launch_gemm_sm90_w8_bf16},
                                                  {launch_gemm_sm90_nf4_f16, launch_gemm_sm90_nf4_bf16}};
  return chosen(args.w.format, act, kLaunches)(config, args, plan, codes_map, x_map, stream);
}

}  // namespace awq::cuda
