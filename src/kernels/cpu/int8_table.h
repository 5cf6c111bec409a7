// Products of quantized weights with activations in int8, one table of function pointers per instruction set.
// The driver (int8_linear.cpp) blocks, packs and hands out tiles over it.
//
// Like simd_table.h this header stays light: it is included by files compiled for newer instruction sets.
#pragma once
#include <cstddef>
#include <cstdint>

namespace awq::simd {

constexpr int kInt8Rows = 16;        // rows of W interleaved in memory: one 32-bit lane each
constexpr int kInt8MaxBlock = 256;   // columns of a block at most: sums of |x| <= 127 stay within int16
constexpr int kInt8GemvTokens = 8;   // tokens one pass over the weights can serve
constexpr int kInt8PanelBlocks = 2;  // row blocks of a panel of the matrix product: 32 outputs

// Resident form of W [rows, k]. A block is `block` consecutive columns that share a scale and a zero point on
// both sides of the product; columns are padded with zeros to whole blocks.
//
//   codes: [row block][column block][word][16 rows] 32-bit words, q unsigned as in the checkpoint
//     4 bits: byte b of word w holds column 8w + b in its low half, column 8w + 4 + b in its high half
//     8 bits: byte b of word w holds column 4w + b
//     3 bits: per 32 columns three words: two of low halves, bits 2s, 2s+1 of byte b of word i being column
//             16i + 4s + b, and one of high bits, bit s of byte b being column 4s + b
//        word of row 0 | word of row 1 | ... | word of row 15 | next word of row 0 | ...
//     Masking and shifting a 64-byte vector of them leaves four consecutive columns of 16 rows, which is what
//     VPDPBUSD multiplies with four broadcast activations.
//   meta: [row block][column block] {16 scales (fp16 or fp32) | 16 zeros (bytes; absent when they are all
//   equal)}
struct Int8Weights {
  int bits;  // 3, 4 or 8
  int64_t block, blocks, words;
  const uint32_t* codes;
  const unsigned char* meta;
  bool half_scales;
  int common_zero;  // the zero point of every group, -1: each has its own in meta

  int64_t scale_bytes() const { return half_scales ? 2 * kInt8Rows : 4 * kInt8Rows; }
  int64_t meta_bytes() const { return scale_bytes() + (common_zero < 0 ? kInt8Rows : 0); }
};

// Quantized x: q [tokens, stride] with |q| <= 127 and zeros behind the last column; x = q * scale per block.
struct Int8Activations {
  const int8_t* q;
  int64_t stride;         // bytes
  const float* scale;     // [tokens, blocks]
  const int32_t* negsum;  // [tokens, blocks] minus the sum of the block's q
  int64_t blocks;
};

// The result is defined exactly, so that every table gives the same bits:
//   d[g] = sum over the block of (code - zero) * q, an integer
//   y = fma(float(d[g]), scale_w[g] * scale_x[g], y) for g = 0, 1, ..., from y = 0; products and sums in fp32
struct Int8Table {
  const char* name;
  int gemm_tokens;    // height of the product's tile
  int stream_tokens;  // up to so many tokens gemv is the faster anywhere; on some machines it is for any number (int8_linear.cpp)
  bool tiles;         // gemm works on the matrix unit (AMX)

  // One token. scale = max|x| / 127, q = x * (127 / max|x|) to nearest, ties to even. A block below 1e-30
  // counts as zero; one with an infinity or NaN gets the scale NaN, which makes its outputs NaN.
  void (*quantize)(const float* x, int64_t k, int64_t block, int64_t blocks, int8_t* q, float* scale,
                   int32_t* negsum);
  // One token whose scale, 1 / factor, is known; factor 0: all zeros. |x * factor| <= 127.5.
  void (*quantize_by)(const float* x, int64_t k, int64_t block, int64_t blocks, float factor, int8_t* q,
                      int32_t* negsum);
  float (*largest)(const float* x, int64_t n);  // magnitude; NaN when there is one
  // y[t][16 b + r] for row blocks b of [b0, b0 + streams * each): `streams` runs of `each` blocks are read
  // side by side. Index: tokens. Rows from `limit` on are not written.
  void (*gemv[kInt8GemvTokens + 1])(const Int8Weights& w, int64_t b0, int64_t each, int64_t streams,
                                    const Int8Activations& x, int64_t limit, float* y, int64_t ldy);
  int (*streams)(int tokens);  // how many runs gemv reads at once
  // Codes of column blocks [g0, g1) of up to kInt8PanelBlocks row blocks as bytes for gemm; (g1 - g0) * block
  // * 32 bytes.
  void (*unpack)(const Int8Weights& w, int64_t b0, int count, int64_t g0, int64_t g1, uint8_t* panel);
  // Adds column blocks [g0, g1) of tokens [0, tokens) to y [tokens][ldy], columns 0..31 being the panel's
  // outputs, `limit` of them written; g0 == 0 overwrites.
  void (*gemm)(const Int8Weights& w, const uint8_t* panel, int64_t b0, int count, int64_t g0, int64_t g1,
               const Int8Activations& x, int64_t tokens, int64_t limit, float* y, int64_t ldy);

  // For the machine's limits. Operations (2 per multiply-add) of `rounds` loops of independent products in
  // registers:
  int64_t (*dot_loop)(int64_t rounds);
  // Reads n bytes (a multiple of 1024), in order or as four streams with prefetch; the result keeps the loads
  // alive.
  uint64_t (*read)(const void* p, int64_t n, bool streams);
};

const Int8Table& int8_portable();
const Int8Table& int8_avx2();
const Int8Table& int8_avxvnni();
const Int8Table& int8_avx512vnni();
const Int8Table& int8_amx();
// Whether the system lets this process use the tile registers; asks once.
bool amx_permitted();
// The best table that awq::isa() and the machine allow.
const Int8Table& int8_table();

}  // namespace awq::simd
