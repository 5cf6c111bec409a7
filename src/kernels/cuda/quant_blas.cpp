#include "kernels/cuda/quant_blas.h"

#include "kernels/cuda/cublas_library.h"

namespace awq::cuda {
namespace {

void check(cublasStatus_t status) { cuda::check(status, "a product of quantization"); }
cublasHandle_t as_handle(void* handle) { return static_cast<cublasHandle_t>(handle); }
int as_int(int64_t n) { return static_cast<int>(n); }

}  // namespace

QuantBlas::QuantBlas(cudaStream_t stream) : workspace_(kCublasWorkspaceBytes) {
  cublasHandle_t handle = nullptr;
  check(cublas().create(&handle));
  handle_ = handle;
  check(cublas().set_stream(handle, stream));
  check(cublas().set_workspace(handle, workspace_.data(), kCublasWorkspaceBytes));
}

QuantBlas::~QuantBlas() { cublas().destroy(as_handle(handle_)); }

// cuBLAS is column-major: what is stored row-major it sees transposed, so cᵀ = bᵀ aᵀ.
void QuantBlas::multiply(int64_t m, int64_t n, int64_t k, float alpha, Strided<const float> a, Strided<const float> b, float beta,
                         Strided<float> c) {
  if (m == 0 || n == 0) return;
  check(cublas().sgemm(as_handle(handle_), CUBLAS_OP_N, CUBLAS_OP_N, as_int(n), as_int(m), as_int(k), &alpha, b.at, as_int(b.stride), a.at,
                       as_int(a.stride), &beta, c.at, as_int(c.stride)));
}

void QuantBlas::multiply_bf16(int64_t m, int64_t n, int64_t k, float alpha, const void* a, int64_t lda, const void* b, int64_t ldb, float beta,
                              Strided<float> c) {
  if (m == 0 || n == 0) return;
  check(cublas().gemm(as_handle(handle_), CUBLAS_OP_N, CUBLAS_OP_N, as_int(n), as_int(m), as_int(k), &alpha, b, CUDA_R_16BF, as_int(ldb), a,
                      CUDA_R_16BF, as_int(lda), &beta, c.at, CUDA_R_32F, as_int(c.stride), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
}

void QuantBlas::multiply_split(int64_t m, int64_t n, int64_t k, float alpha, SplitView a, SplitView b, float beta, Strided<float> c) {
  multiply_bf16(m, n, k, alpha, a.low, a.stride, b.high, b.stride, beta, c);
  multiply_bf16(m, n, k, alpha, a.high, a.stride, b.low, b.stride, 1, c);
  multiply_bf16(m, n, k, alpha, a.high, a.stride, b.high, b.stride, 1, c);
}

void QuantBlas::add_gram(Act act, const void* x, int64_t tokens, int64_t dim, float* g) {
  const cudaDataType type = act == Act::kF16 ? CUDA_R_16F : CUDA_R_16BF;
  const float one = 1;
  check(cublas().gemm(as_handle(handle_), CUBLAS_OP_N, CUBLAS_OP_T, as_int(dim), as_int(dim), as_int(tokens), &one, x, type, as_int(dim), x,
                      type, as_int(dim), &one, g, CUDA_R_32F, as_int(dim), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
}

void QuantBlas::multiply(bool transpose_b, int64_t m, int64_t n, int64_t k, double alpha, const double* a, int64_t lda, const double* b,
                         int64_t ldb, double beta, double* c, int64_t ldc) {
  if (m == 0 || n == 0) return;
  check(cublas().dgemm(as_handle(handle_), CUBLAS_OP_N, transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N, as_int(m), as_int(n), as_int(k), &alpha, a,
                       as_int(lda), b, as_int(ldb), &beta, c, as_int(ldc)));
}

void QuantBlas::subtract_square(int64_t n, int64_t k, const double* a, int64_t lda, double* c, int64_t ldc) {
  if (n == 0) return;
  const double minus = -1, one = 1;
  check(cublas().dsyrk(as_handle(handle_), CUBLAS_FILL_MODE_LOWER, CUBLAS_OP_N, as_int(n), as_int(k), &minus, a, as_int(lda), &one, c,
                       as_int(ldc)));
}

void QuantBlas::multiply_lower(int64_t m, int64_t n, const double* l, int64_t ldl, const double* b, int64_t ldb, double* c, int64_t ldc) {
  if (m == 0 || n == 0) return;
  const double one = 1;
  check(cublas().dtrmm(as_handle(handle_), CUBLAS_SIDE_LEFT, CUBLAS_FILL_MODE_LOWER, CUBLAS_OP_N, CUBLAS_DIAG_NON_UNIT, as_int(m), as_int(n),
                       &one, l, as_int(ldl), b, as_int(ldb), c, as_int(ldc)));
}

}  // namespace awq::cuda
