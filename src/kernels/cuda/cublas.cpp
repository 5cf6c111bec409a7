#include "kernels/cuda/cublas.h"

#include <cublas_v2.h>
#include <dlfcn.h>

namespace awq::cuda {
namespace {

constexpr int64_t kWorkspaceBytes = int64_t{32} << 20;  // what NVIDIA recommends for Hopper

// Written out: cublasGemmEx is overloaded.
using GemmEx = cublasStatus_t (*)(cublasHandle_t, cublasOperation_t, cublasOperation_t, int, int, int,
                                  const void*, const void*, cudaDataType, int, const void*, cudaDataType, int,
                                  const void*, void*, cudaDataType, int, cublasComputeType_t,
                                  cublasGemmAlgo_t);

void* open_library() {
  for (const char* name : {"libcublas.so.13", "libcublas.so.12", "libcublas.so"})
    if (void* library = ::dlopen(name, RTLD_NOW | RTLD_LOCAL); library != nullptr) return library;
  fail(Code::kUnsupported, "CUDA: libcublas.so.13 is needed for dense products and was not found ({})",
       ::dlerror());
}

struct Library {
  decltype(&cublasCreate_v2) create = nullptr;
  decltype(&cublasDestroy_v2) destroy = nullptr;
  decltype(&cublasSetStream_v2) set_stream = nullptr;
  decltype(&cublasSetWorkspace_v2) set_workspace = nullptr;
  GemmEx gemm = nullptr;

  Library() {
    find("cublasCreate_v2", create);
    find("cublasDestroy_v2", destroy);
    find("cublasSetStream_v2", set_stream);
    find("cublasSetWorkspace_v2", set_workspace);
    find("cublasGemmEx", gemm);
  }
  template <class F>
  static void find(const char* name, F& function) {
    function = reinterpret_cast<F>(cublas_function(name));
  }
};

const Library& library() {
  static const Library value;
  return value;
}

void check(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS)
    fail(Code::kInternal, "cuBLAS: {}: status {}", what, static_cast<int>(status));
}

}  // namespace

void* cublas_function(const char* name) {
  static void* const opened = open_library();
  void* function = ::dlsym(opened, name);
  if (function == nullptr) fail(Code::kUnsupported, "CUDA: libcublas has no {}", name);
  return function;
}

Cublas::Cublas() : workspace_(kWorkspaceBytes) {
  cublasHandle_t handle = nullptr;
  check(library().create(&handle), "creating a handle");
  handle_ = handle;
}

Cublas::~Cublas() { library().destroy(static_cast<cublasHandle_t>(handle_)); }

void Cublas::linear(Act act, const void* w, int64_t out, int64_t in, const void* x, int64_t tokens, void* y,
                    int64_t ldy, cudaStream_t stream) {
  multiply(act, w, out, in, x, tokens, y, ldy, false, stream);
}

void Cublas::linear_f32(Act act, const void* w, int64_t out, int64_t in, const void* x, int64_t tokens,
                        float* y, int64_t ldy, cudaStream_t stream) {
  multiply(act, w, out, in, x, tokens, y, ldy, true, stream);
}

void Cublas::multiply(Act act, const void* w, int64_t out, int64_t in, const void* x, int64_t tokens, void* y,
                      int64_t ldy, bool f32, cudaStream_t stream) {
  auto* handle = static_cast<cublasHandle_t>(handle_);
  const cudaDataType type = act == Act::kF16 ? CUDA_R_16F : CUDA_R_16BF;
  const float one = 1, zero = 0;
  check(library().set_stream(handle, stream), "setting the stream");
  check(library().set_workspace(handle, workspace_.data(), kWorkspaceBytes), "setting the workspace");
  check(
      library().gemm(handle, CUBLAS_OP_T, CUBLAS_OP_N, static_cast<int>(out), static_cast<int>(tokens),
                     static_cast<int>(in), &one, w, type, static_cast<int>(in), x, type, static_cast<int>(in),
                     &zero, y, f32 ? CUDA_R_32F : type, static_cast<int>(ldy), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
      "multiplying");
}

}  // namespace awq::cuda
