#include "kernels/cuda/gemv.cuh"

namespace awq::cuda {

cudaError_t launch_gemv_w8_f16(int config, const LinearArgs& args, cudaStream_t stream) {
  return dispatch_gemv<__half, Format::kAffine8>(config, args, stream);
}

}  // namespace awq::cuda
