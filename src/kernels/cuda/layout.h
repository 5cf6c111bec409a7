// How a 4-bit weight W [out, in] lies in device memory: one form for every kernel, GEMV to GEMM.
//
// Codes are stored as the register fragments of the tensor cores' 16 x 16 operand A (PTX ISA, mma.m16n8k16
// and wgmma.m64nNk16 agree on it), so that no kernel shuffles anything. A "strip" is 16 rows, a "block" 64
// columns:
//
//   codes [strips][blocks][32 lanes][4 words]     512 bytes per strip and block, what a warp reads with one
//   16-byte load
//
// Word i of lane l covers columns 16i .. 16i+15 of the block; with r = l / 4 and c = 2 (l % 4) its nibbles
// are
//
//   bits  0-3  row r,   column c      16-19  row r,   column c+1        (low half: even columns, high half:
//   odd ones, so bits  4-7  row r+8, column c      20-23  row r+8, column c+1         that one lop3 unpacks a
//   pair of halves) bits  8-11 row r,   column c+8    24-27  row r,   column c+9 bits 12-15 row r+8, column
//   c+8    28-31  row r+8, column c+9
//
// Scales and zero points of a "panel" of 128 rows (8 strips) and one group of columns stand together:
//
//   scales [panels][groups][320 bytes]    8 strips x 8 row pairs x {fp16 scale of row r, of row r+8}, then
//                                         8 strips x 8 row pairs x {zero of row r | zero of row r+8 << 4}
//
// Together 0.5 + 2.5 / group bytes per weight, the smallest that 4-bit zero points and 16-bit scales allow.
// Rows are padded to whole panels and columns to 128, with scale 0. Scales are multiplied by a power of two,
// chosen so that the largest lies in [128, 256): then products (code - zero) * scale stay clear of fp16's
// subnormals, and bf16 scales fit too. Kernels multiply their fp32 sums by `out_scale`, its inverse.
#pragma once
#include <cstdint>

#ifdef __CUDACC__
#define AWQ_HOST_DEVICE __host__ __device__
#else
#define AWQ_HOST_DEVICE
#endif

namespace awq::cuda {

constexpr int kStripRows = 16, kPanelRows = 128, kBlockCols = 64, kFragmentBytes = 512;
constexpr int kScaleBytes = 320, kZeroOffset = 256;  // of one panel and group

// What kernels see of a packed weight; device pointers.
struct PackedView {
  const void* codes = nullptr;
  const void* scales = nullptr;
  int out = 0, in = 0;       // W's true shape
  int blocks = 0;            // of 64 columns, an even number
  int groups = 0;            // per row, padding included
  int group_blocks = 1;      // blocks per group;
  int groups_per_block = 1;  // 2 for groups of 32
  float out_scale = 1;

  // Groups that `n` blocks (1, or an even pair) starting at an even one can touch.
  int groups_in(int n) const {
    return groups_per_block == 2 ? 2 * n : n == 2 && group_blocks % 2 == 0 ? 1 : n;
  }
  AWQ_HOST_DEVICE int strips() const { return panels() * (kPanelRows / kStripRows); }
  AWQ_HOST_DEVICE int panels() const { return (out + kPanelRows - 1) / kPanelRows; }
};

}  // namespace awq::cuda
