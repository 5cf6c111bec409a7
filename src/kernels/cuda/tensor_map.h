// Descriptions of matrices for Hopper's tensor copy engine.
#pragma once
#include <cuda.h>

#include <cstdint>

#include "kernels/cuda/layout.h"

namespace awq::cuda {

// Activations: row-major 16-bit numbers [rows, cols], read in boxes of box_rows x 64 columns with the
// 128-byte swizzle; zeros outside. data 16-byte aligned, cols a multiple of 8.
CUtensorMap x_tensor_map(const void* data, int64_t rows, int64_t cols, int box_rows);
// int8 numbers [rows, cols], row-major, in boxes of box_rows x 128 columns with the same swizzle; cols a multiple of 16.
CUtensorMap int8_tensor_map(const void* data, int64_t rows, int64_t cols, int box_rows);
// Packed codes (layout.h): strips of blocks of kCodesMapBlock elements each, read in boxes of 8 strips x box_blocks (1 or 2) blocks.
constexpr int kCodesMapBlock = 128;
CUtensorMap codes_tensor_map(Format format, const void* codes, int64_t strips, int64_t blocks, int box_blocks);

}  // namespace awq::cuda
