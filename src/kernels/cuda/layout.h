// How a quantized weight W [out, in] lies in device memory: one form for every kernel, GEMV to GEMM.
//
// Codes are stored as the register fragments of the tensor cores' 16 x 16 operand A (PTX ISA, mma.m16n8k16
// and wgmma.m64nNk16 agree on it), so that no kernel shuffles anything. A "strip" is 16 rows, a "block" 64
// columns:
//
//   codes [strips][blocks][32 lanes][4 words]     512 bytes per strip and block, what a warp reads with one
//   16-byte load; of 8-bit codes [strips][blocks][2][32 lanes][4 words], 1,024 bytes
//
// A step of 16 columns is one word of a lane, or two of 8-bit codes: word i of lane l covers columns 16i ..
// 16i+15 of the block, of 8-bit codes words 2i and 2i+1 do (word j of them is word j % 4 of half j / 4). With
// r = l / 4 and c = 2 (l % 4) the 4-bit affine codes of a word are
//
//   bits  0-3  row r,   column c      16-19  row r,   column c+1        (low half: even columns, high half:
//   odd ones, so bits  4-7  row r+8, column c      20-23  row r+8, column c+1         that one lop3 unpacks a
//   pair of halves) bits  8-11 row r,   column c+8    24-27  row r,   column c+9 bits 12-15 row r+8, column
//   c+8    28-31  row r+8, column c+9
//
// NF4 and 8-bit codes are unpacked by byte permutations, which want pairs of columns side by side: their
// order, from the lowest bits of the first word on, is row r columns c, c+1; row r+8 columns c, c+1; row r
// columns c+8, c+9; row r+8 columns c+8, c+9.
//
// Scales and zero points of a "panel" of 128 rows (8 strips) and one group of columns stand together:
//
//   scales [panels][groups][320 bytes]    8 strips x 8 row pairs x {fp16 scale of row r, of row r+8}, then
//                                         8 strips x 8 row pairs x {zero of row r | zero of row r+8 << 4}
//   of 8-bit codes         [384 bytes]    zeros are {byte of row r, byte of row r+8}
//   of NF4                 [256 bytes]    no zeros
//
// Together 0.5 + 2.5 / group bytes per weight (1 + 3 / group, 0.5 + 2 / group), the smallest that 4-bit zero
// points and 16-bit scales allow. Rows are padded to whole panels and columns to 128, with scale 0. Scales are
// multiplied by a power of two, chosen so that the largest lies in [128, 256): then products (code - zero) *
// scale stay clear of fp16's subnormals, and bf16 scales fit too. Kernels multiply their fp32 sums by
// `out_scale`, its inverse.
#pragma once
#include <cstdint>

#ifdef __CUDACC__
#define AWQ_HOST_DEVICE __host__ __device__
#else
#define AWQ_HOST_DEVICE
#endif

namespace awq::cuda {

constexpr int kStripRows = 16, kPanelRows = 128, kBlockCols = 64, kFragmentBytes = 512;
constexpr int kScaleBytes = 320, kZeroOffset = 256;  // of one panel and group of affine 4-bit codes

// Evenly spaced codes in 4 or 8 bits with integer zero points; indices into kNf4Values.
enum class Format : uint8_t { kAffine4, kAffine8, kNf4 };

// Of a strip and block; of a strip's zero points; of a panel and group.
AWQ_HOST_DEVICE constexpr int fragment_bytes(Format f) { return f == Format::kAffine8 ? 2 * kFragmentBytes : kFragmentBytes; }
AWQ_HOST_DEVICE constexpr int zero_bytes(Format f) { return f == Format::kNf4 ? 0 : f == Format::kAffine8 ? 16 : 8; }
AWQ_HOST_DEVICE constexpr int scale_bytes(Format f) { return kZeroOffset + kPanelRows / kStripRows * zero_bytes(f); }
static_assert(scale_bytes(Format::kAffine4) == kScaleBytes);

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
  Format format = Format::kAffine4;

  // Groups that `n` blocks (1, or an even pair) starting at an even one can touch.
  int groups_in(int n) const {
    return groups_per_block == 2 ? 2 * n : n == 2 && group_blocks % 2 == 0 ? 1 : n;
  }
  // Of the whole weight.
  int64_t codes_bytes() const { return int64_t{strips()} * blocks * fragment_bytes(format); }
  int64_t scales_bytes() const { return int64_t{panels()} * groups * scale_bytes(format); }
  AWQ_HOST_DEVICE int strips() const { return panels() * (kPanelRows / kStripRows); }
  AWQ_HOST_DEVICE int panels() const { return (out + kPanelRows - 1) / kPanelRows; }
};

}  // namespace awq::cuda
