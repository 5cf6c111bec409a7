#include "kernels/cuda/gemm_sm90.cuh"

namespace awq::cuda {

cudaError_t launch_gemm_sm90_w8_f16(int config, const LinearArgs& args, const GemmPlan& plan,
                                    const CUtensorMap& codes_map, const CUtensorMap& x_map,
                                    cudaStream_t stream) {
  return dispatch_gemm<__half, Format::kAffine8>(config, args, plan, codes_map, x_map, stream);
}

}  // namespace awq::cuda
