#include "kernels/cuda/gemv.cuh"

namespace awq::cuda {

cudaError_t launch_gemv_bf16(int config, const LinearArgs& args, cudaStream_t stream) {
  return dispatch_gemv<__nv_bfloat16>(config, args, stream, std::make_integer_sequence<int, kGemvCount>());
}

}  // namespace awq::cuda
