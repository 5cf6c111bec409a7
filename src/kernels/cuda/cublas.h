// Dense products through cuBLAS, which is opened when first wanted: a program that never multiplies dense
// matrices on a GPU needs no cuBLAS.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/device.h"
#include "kernels/cuda/launch.h"

namespace awq::cuda {

// One stream uses an instance at a time. Captured graphs need the workspace that it owns.
class Cublas {
 public:
  Cublas();  // throws kUnsupported where libcublas is missing, naming it
  ~Cublas();
  Cublas(const Cublas&) = delete;
  Cublas& operator=(const Cublas&) = delete;
  // y [tokens, out] (row stride ldy) = x [tokens, in] times w [out, in] transposed; fp32 sums.
  void linear(Act act, const void* w, int64_t out, int64_t in, const void* x, int64_t tokens, void* y,
              int64_t ldy, cudaStream_t stream);
  // The same with y in fp32.
  void linear_f32(Act act, const void* w, int64_t out, int64_t in, const void* x, int64_t tokens, float* y,
                  int64_t ldy, cudaStream_t stream);
  // sums [tokens, out] in 32 bits of int8 matrices; in and out multiples of 4.
  void linear_int8(const int8_t* w, int64_t out, int64_t in, const int8_t* x, int64_t tokens, int32_t* sums, cudaStream_t stream);

 private:
  void multiply(Act act, const void* w, int64_t out, int64_t in, const void* x, int64_t tokens, void* y,
                int64_t ldy, bool f32, cudaStream_t stream);
  void* handle_ = nullptr;
  Buffer workspace_;
};

}  // namespace awq::cuda
