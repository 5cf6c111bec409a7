#include "kernels/cuda/tensor_map.h"

#include <cuda_runtime_api.h>

#include "kernels/cuda/device.h"

namespace awq::cuda {
namespace {

using Encode = decltype(&cuTensorMapEncodeTiled);

// Through the runtime, so that nothing links with the driver's library, which machines without a GPU do not
// have.
Encode encode_function() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found;
  check(
      cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found),
      "looking for cuTensorMapEncodeTiled");
  if (found != cudaDriverEntryPointSuccess)
    fail(Code::kUnsupported,
         "CUDA: the driver has no cuTensorMapEncodeTiled; a driver of CUDA 12 or later is needed");
  return reinterpret_cast<Encode>(function);
}

CUtensorMap describe(const void* data, CUtensorMapDataType type, int element, int64_t rows, int64_t cols,
                     int box_rows, int box_cols, CUtensorMapSwizzle swizzle) {
  static const Encode encode = encode_function();
  CUtensorMap map;
  const cuuint64_t size[] = {static_cast<cuuint64_t>(cols), static_cast<cuuint64_t>(rows)};
  const cuuint64_t stride[] = {static_cast<cuuint64_t>(cols) * element};
  const cuuint32_t box[] = {static_cast<cuuint32_t>(box_cols), static_cast<cuuint32_t>(box_rows)},
                   step[] = {1, 1};
  const CUresult result =
      encode(&map, type, 2, const_cast<void*>(data), size, stride, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
             swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS)
    fail(Code::kInternal, "CUDA: describing a matrix [{}, {}] for the copy engine: error {}", rows, cols,
         static_cast<int>(result));
  return map;
}

}  // namespace

CUtensorMap x_tensor_map(const void* data, int64_t rows, int64_t cols, int box_rows) {
  return describe(data, CU_TENSOR_MAP_DATA_TYPE_UINT16, 2, rows, cols, box_rows, 64,
                  CU_TENSOR_MAP_SWIZZLE_128B);
}

CUtensorMap int8_tensor_map(const void* data, int64_t rows, int64_t cols, int box_rows) {
  return describe(data, CU_TENSOR_MAP_DATA_TYPE_UINT8, 1, rows, cols, box_rows, 128, CU_TENSOR_MAP_SWIZZLE_128B);
}

// A box has at most 256 elements along a side: they are as large as it takes.
CUtensorMap codes_tensor_map(Format format, const void* codes, int64_t strips, int64_t blocks, int box_blocks) {
  const int element = fragment_bytes(format) / kCodesMapBlock;
  return describe(codes, element == 8 ? CU_TENSOR_MAP_DATA_TYPE_UINT64 : CU_TENSOR_MAP_DATA_TYPE_UINT32, element, strips,
                  blocks * kCodesMapBlock, 8, box_blocks * kCodesMapBlock, CU_TENSOR_MAP_SWIZZLE_NONE);
}

}  // namespace awq::cuda
