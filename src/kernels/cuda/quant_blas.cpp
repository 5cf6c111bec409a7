#include "kernels/cuda/quant_blas.h"

#include <cublas_v2.h>

namespace awq::cuda {
namespace {

constexpr int64_t kWorkspaceBytes = int64_t{32} << 20;

// Written out: cublasGemmEx is overloaded.
using GemmEx = cublasStatus_t (*)(cublasHandle_t, cublasOperation_t, cublasOperation_t, int, int, int, const void*, const void*, cudaDataType,
                                  int, const void*, cudaDataType, int, const void*, void*, cudaDataType, int, cublasComputeType_t,
                                  cublasGemmAlgo_t);

struct Functions {
  decltype(&cublasCreate_v2) create;
  decltype(&cublasDestroy_v2) destroy;
  decltype(&cublasSetStream_v2) set_stream;
  decltype(&cublasSetWorkspace_v2) set_workspace;
  GemmEx gemm;
  decltype(&cublasSgemm_v2) sgemm;
  decltype(&cublasDgemm_v2) dgemm;
  decltype(&cublasDsyrk_v2) dsyrk;
  decltype(&cublasDtrmm_v2) dtrmm;

  Functions() {
    find("cublasCreate_v2", create), find("cublasDestroy_v2", destroy), find("cublasSetStream_v2", set_stream);
    find("cublasSetWorkspace_v2", set_workspace), find("cublasGemmEx", gemm), find("cublasSgemm_v2", sgemm);
    find("cublasDgemm_v2", dgemm), find("cublasDsyrk_v2", dsyrk), find("cublasDtrmm_v2", dtrmm);
  }
  template <class F>
  static void find(const char* name, F& function) {
    function = reinterpret_cast<F>(cublas_function(name));
  }
};

const Functions& cublas() {
  static const Functions functions;
  return functions;
}

void check(cublasStatus_t status) {
  if (status != CUBLAS_STATUS_SUCCESS) fail(Code::kInternal, "cuBLAS: a product of quantization: status {}", static_cast<int>(status));
}

cublasHandle_t as_handle(void* handle) { return static_cast<cublasHandle_t>(handle); }
int as_int(int64_t n) { return static_cast<int>(n); }

}  // namespace

QuantBlas::QuantBlas(cudaStream_t stream) : workspace_(kWorkspaceBytes) {
  cublasHandle_t handle = nullptr;
  check(cublas().create(&handle));
  handle_ = handle;
  check(cublas().set_stream(handle, stream));
  check(cublas().set_workspace(handle, workspace_.data(), kWorkspaceBytes));
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
