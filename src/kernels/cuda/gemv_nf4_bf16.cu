#include "kernels/cuda/gemv.cuh"

namespace awq::cuda {

cudaError_t launch_gemv_nf4_bf16(int config, const LinearArgs& args, cudaStream_t stream) {
  return dispatch_gemv<__nv_bfloat16, Format::kNf4>(config, args, stream);
}

}  // namespace awq::cuda
