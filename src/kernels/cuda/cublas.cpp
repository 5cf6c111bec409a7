#include "kernels/cuda/cublas.h"

#include <dlfcn.h>

#include "kernels/cuda/cublas_library.h"

namespace awq::cuda {
namespace {

void* open_library() {
  for (const char* name : {"libcublas.so.13", "libcublas.so.12", "libcublas.so"})
    if (void* library = ::dlopen(name, RTLD_NOW | RTLD_LOCAL); library != nullptr) return library;
  fail(Code::kUnsupported, "CUDA: libcublas.so.13 is needed for dense products and was not found ({})",
       ::dlerror());
}

template <class F>
void find(void* library, const char* name, F& function) {
  function = reinterpret_cast<F>(::dlsym(library, name));
  if (function == nullptr) fail(Code::kUnsupported, "CUDA: libcublas has no {}", name);
}

}  // namespace

CublasLibrary::CublasLibrary() {
  void* const opened = open_library();
  find(opened, "cublasCreate_v2", create), find(opened, "cublasDestroy_v2", destroy);
  find(opened, "cublasSetStream_v2", set_stream), find(opened, "cublasSetWorkspace_v2", set_workspace);
  find(opened, "cublasGemmEx", gemm), find(opened, "cublasSgemm_v2", sgemm), find(opened, "cublasDgemm_v2", dgemm);
  find(opened, "cublasDsyrk_v2", dsyrk), find(opened, "cublasDtrmm_v2", dtrmm);
}

const CublasLibrary& cublas() {
  static const CublasLibrary library;
  return library;
}

void check(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS)
    fail(Code::kInternal, "cuBLAS: {}: status {}", what, static_cast<int>(status));
}

Cublas::Cublas() : workspace_(kCublasWorkspaceBytes) {
  cublasHandle_t handle = nullptr;
  check(cublas().create(&handle), "creating a handle");
  handle_ = handle;
}

Cublas::~Cublas() { cublas().destroy(static_cast<cublasHandle_t>(handle_)); }

void Cublas::linear(Act act, const void* w, int64_t out, int64_t in, const void* x, int64_t tokens, void* y,
                    int64_t ldy, cudaStream_t stream) {
  multiply(act, w, out, in, x, tokens, y, ldy, false, stream);
}

void Cublas::linear_f32(Act act, const void* w, int64_t out, int64_t in, const void* x, int64_t tokens,
                        float* y, int64_t ldy, cudaStream_t stream) {
  multiply(act, w, out, in, x, tokens, y, ldy, true, stream);
}

void Cublas::linear_int8(const int8_t* w, int64_t out, int64_t in, const int8_t* x, int64_t tokens, int32_t* sums, cudaStream_t stream) {
  auto* handle = static_cast<cublasHandle_t>(handle_);
  const int32_t one = 1, zero = 0;
  check(cublas().set_stream(handle, stream), "setting the stream");
  check(cublas().set_workspace(handle, workspace_.data(), kCublasWorkspaceBytes), "setting the workspace");
  check(cublas().gemm(handle, CUBLAS_OP_T, CUBLAS_OP_N, static_cast<int>(out), static_cast<int>(tokens), static_cast<int>(in), &one, w,
                      CUDA_R_8I, static_cast<int>(in), x, CUDA_R_8I, static_cast<int>(in), &zero, sums, CUDA_R_32I, static_cast<int>(out),
                      CUBLAS_COMPUTE_32I, CUBLAS_GEMM_DEFAULT),
        "multiplying integers");
}

void Cublas::multiply(Act act, const void* w, int64_t out, int64_t in, const void* x, int64_t tokens, void* y,
                      int64_t ldy, bool f32, cudaStream_t stream) {
  auto* handle = static_cast<cublasHandle_t>(handle_);
  const cudaDataType type = act == Act::kF16 ? CUDA_R_16F : CUDA_R_16BF;
  const float one = 1, zero = 0;
  check(cublas().set_stream(handle, stream), "setting the stream");
  check(cublas().set_workspace(handle, workspace_.data(), kCublasWorkspaceBytes), "setting the workspace");
  check(
      cublas().gemm(handle, CUBLAS_OP_T, CUBLAS_OP_N, static_cast<int>(out), static_cast<int>(tokens),
                     static_cast<int>(in), &one, w, type, static_cast<int>(in), x, type, static_cast<int>(in),
                     &zero, y, f32 ? CUDA_R_32F : type, static_cast<int>(ldy), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
      "multiplying");
}

}  // namespace awq::cuda
