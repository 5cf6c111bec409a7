// cuBLAS's functions, found when first wanted.
#pragma once
#include <cublas_v2.h>

namespace awq::cuda {

// Written out: cublasGemmEx is overloaded.
using GemmEx = cublasStatus_t (*)(cublasHandle_t, cublasOperation_t, cublasOperation_t, int, int, int, const void*, const void*, cudaDataType,
                                  int, const void*, cudaDataType, int, const void*, void*, cudaDataType, int, cublasComputeType_t,
                                  cublasGemmAlgo_t);

struct CublasLibrary {
  CublasLibrary();
  decltype(&cublasCreate_v2) create = nullptr;
  decltype(&cublasDestroy_v2) destroy = nullptr;
  decltype(&cublasSetStream_v2) set_stream = nullptr;
  decltype(&cublasSetWorkspace_v2) set_workspace = nullptr;
  GemmEx gemm = nullptr;
  decltype(&cublasSgemm_v2) sgemm = nullptr;
  decltype(&cublasDgemm_v2) dgemm = nullptr;
  decltype(&cublasDsyrk_v2) dsyrk = nullptr;
  decltype(&cublasDtrmm_v2) dtrmm = nullptr;
};

// Throws kUnsupported where the library or one of the functions is missing, naming it.
const CublasLibrary& cublas();
void check(cublasStatus_t status, const char* what);

constexpr long kCublasWorkspaceBytes = 32L << 20;  // what NVIDIA recommends for Hopper

}  // namespace awq::cuda
