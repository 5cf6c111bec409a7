// The dense products of quantization, through cuBLAS. Matrices are row-major unless said otherwise.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/cublas.h"

namespace awq::cuda {

// A matrix of fp32 with its row stride.
template <class T>
struct Strided {
  T* at = nullptr;
  int64_t stride = 0;
};

// A fp32 matrix as the sum of two in bf16: 16 of its 24 bits.
struct SplitView {
  const void *high = nullptr, *low = nullptr;
  int64_t stride = 0;
};

class QuantBlas {
 public:
  explicit QuantBlas(cudaStream_t stream);
  ~QuantBlas();
  QuantBlas(const QuantBlas&) = delete;
  QuantBlas& operator=(const QuantBlas&) = delete;

  // c [m, n] = alpha a [m, k] b [k, n] + beta c, in fp32 throughout.
  void multiply(int64_t m, int64_t n, int64_t k, float alpha, Strided<const float> a, Strided<const float> b, float beta, Strided<float> c);
  // The same on the tensor cores: high high + high low + low high, sums in fp32. Elements are good to about 2^-16.
  void multiply_split(int64_t m, int64_t n, int64_t k, float alpha, SplitView a, SplitView b, float beta, Strided<float> c);
  // c [m, n] = alpha a [m, k] b [k, n] + beta c, for bf16 a and b.
  void multiply_bf16(int64_t m, int64_t n, int64_t k, float alpha, const void* a, int64_t lda, const void* b, int64_t ldb, float beta,
                     Strided<float> c);
  // g [dim, dim] += xᵀ x; x [tokens, dim].
  void add_gram(Act act, const void* x, int64_t tokens, int64_t dim, float* g);

  // Column-major, double. c = alpha a op(b) + beta c.
  void multiply(bool transpose_b, int64_t m, int64_t n, int64_t k, double alpha, const double* a, int64_t lda, const double* b, int64_t ldb,
                double beta, double* c, int64_t ldc);
  // Lower triangle of c [n, n] -= a aᵀ; a [n, k].
  void subtract_square(int64_t n, int64_t k, const double* a, int64_t lda, double* c, int64_t ldc);
  // c [m, n] = l b, l the lower triangle of [m, m].
  void multiply_lower(int64_t m, int64_t n, const double* l, int64_t ldl, const double* b, int64_t ldb, double* c, int64_t ldc);

 private:
  void* handle_ = nullptr;
  Buffer workspace_;
};

}  // namespace awq::cuda
