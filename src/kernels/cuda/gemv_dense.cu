#include "kernels/cuda/gemv_dense.cuh"

namespace awq::cuda {

cudaError_t launch_gemv_dense(Act act, const LinearArgs& args, int processors, cudaStream_t stream) {
  return act == Act::kF16 ? dispatch_gemv_dense<__half>(args, processors, stream)
                          : dispatch_gemv_dense<__nv_bfloat16>(args, processors, stream);
}

int gemv_dense_shared_bytes(int tokens) { return tokens == 1 ? DenseGemv<1>::kSharedBytes : DenseGemv<8>::kSharedBytes; }

}  // namespace awq::cuda
