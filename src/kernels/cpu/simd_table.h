// The primitives that differ between instruction sets, as one table of function pointers per set. The
// algorithms (blocking, packing order, threads) are written once over this table, in gemm.cpp, linear.cpp,
// attention.cpp, rows.cpp, and so on.
//
// This header is included by files compiled for AVX2 and AVX-512, so it must stay light: an inline function
// compiled there could be chosen by the linker for every machine. The shared bodies (*.inc) are included
// inside an anonymous namespace for the same reason and use no standard library templates.
#pragma once
#include <cstddef>
#include <cstdint>

namespace awq::simd {

enum class Elem : uint8_t { kF32, kF16, kBF16 };
constexpr int kElems = 3;
constexpr int kMaxMr = 14, kMaxNr = 32;  // largest microtile of any set
constexpr int kRowBlock = 16;            // rows of a quantized weight interleaved in memory
constexpr int kMaxGemvTokens = 8;        // tokens one pass over the weights can serve
constexpr int kAheadPages = 4;           // pages behind a block of keys whose addresses are known
constexpr int kKeyBlock = 128;           // keys per attention block: row stride of the score tile, in floats

// Resident form of a quantized matrix [rows, k]. Rows are interleaved in blocks of 16 so that one vector lane
// is one row: a product needs no horizontal sum, a GEMM panel no transposition.
//
//   codes: [row block][group][word][16 rows] 32-bit words; nibble i of word w (bits 4i..4i+3) is column
//          8w + i of the group; byte i is column 4w + i when bits is 8
//     word of row 0 | word of row 1 | ... | word of row 15 | next word of row 0 | ...
//   stored code = (q - middle) in two's complement, middle = 2^(bits of the scheme - 1); a group is padded to
//   whole words.
//   scales: [row block][group][16]; zeros: [row block][group][16], zero - middle, null when all are 0;
//   offsets: [row block][group][16] of real numbers, null when all are 0.
//   A weight is (code - zero) * scale + offset, or levels[nibble] * scale + offset where there are levels.
struct QuantView {
  int bits;  // 4 or 8
  int64_t k, group, groups, words;
  const uint32_t* codes;
  const void* scales;
  Elem scale_elem;
  const int8_t* zeros;
  const float* offsets;
  const float* levels;  // 16, for the stored nibbles 0..15 of 4 bits (nf4)
};

// What a cache stores: an Elem, or int8 with scales.
constexpr int kCacheInt8 = kElems, kCaches = kElems + 1;
// Keys of one head in consecutive pages, each [head_dim][16 keys], and in int8 the scales of the 16. The values of a page lie
// `values_at` bytes behind its keys.
struct CachedKeys {
  const void* const* pages;
  const float* const* scales;
  int64_t values_at;
};
// Values of one head, each [head_dim], and in int8 their scales.
struct CachedValues {
  const void* const* rows;
  const float* scales;
};

// Statistics of one row of logits for KL: sums over v of e^(p-max p), e^(q-max q) and e^(p-max p) (p - q).
struct KlSums {
  double p, q, pd;
};

struct Table {
  const char* name;
  int mr, nr;
  bool bf16;  // has the bf16 entries

  // c [rows, nr] (row stride ldc) = or += sum over steps of a[step][rows] b[step][nr]; index: rows, 1..mr.
  // One step is one k in fp32, a pair of k (32 bits per element) in bf16.
  void (*micro[kMaxMr + 1])(int64_t steps, const float* a, const float* b, float* c, int64_t ldc, bool add);
  void (*micro_bf16[kMaxMr + 1])(int64_t steps, const float* a, const float* b, float* c, int64_t ldc,
                                 bool add);
  // The same with a row-major, row stride kKeyBlock.
  void (*micro_rows[kMaxMr + 1])(int64_t steps, const float* a, const float* b, float* c, int64_t ldc,
                                 bool add);

  // out[kk][rows] = x[r][kk], rows <= mr. bf16: pairs, odd k padded with zero.
  void (*pack_a)(const float* x, int64_t ldx, int rows, int64_t k, float* out);
  void (*pack_a_bf16)(const float* x, int64_t ldx, int rows, int64_t k, float* out);
  // panel[kk][nr] = element k0 + kk of the given rows, columns from n on zero; index: Elem.
  void (*pack_b[kElems])(const void* const* rows, int n, int64_t k0, int64_t kn, float* panel);
  void (*pack_b_bf16[kElems])(const void* const* rows, int n, int64_t k0, int64_t kn, float* panel);
  // The same from nr/16 row blocks, dequantized; blocks beyond `blocks` are zero. k0 even for bf16.
  void (*pack_quant)(const QuantView& w, int64_t block, int blocks, int64_t k0, int64_t kn, float* panel);
  void (*pack_quant_bf16)(const QuantView& w, int64_t block, int blocks, int64_t k0, int64_t kn,
                          float* panel);
  // Two rows of n floats to n pairs of bf16 (second may be null: zero); for Gram panels, tokens being k.
  void (*pair_bf16)(const float* even, const float* odd, int64_t n, float* out);

  // y[j][i] = x[i][j] for x [rows, columns]; x and y may be parts of one matrix that do not overlap.
  void (*transpose)(const float* x, int64_t ldx, int64_t rows, int64_t columns, float* y, int64_t ldy);

  // y[t][row] for rows [r0, r1) of a row-major weight; index: Elem, tokens. y has row stride ldy.
  void (*gemv[kElems][kMaxGemvTokens + 1])(const void* w, int64_t ldw, int64_t r0, int64_t r1, int64_t k,
                                           const float* x, int64_t ldx, float* y, int64_t ldy);
  // The same for row blocks [b0, b1), rows < limit written. xp [k][tokens], xs [groups][tokens] sums per
  // group.
  void (*gemv_quant[kMaxGemvTokens + 1])(const QuantView& w, int64_t b0, int64_t b1, int64_t limit,
                                         const float* xp, const float* xs, float* y, int64_t ldy);

  // Of nr / 16 pages: panel[d][nr].
  void (*key_panel[kCaches])(const CachedKeys& keys, int64_t dim, float* panel);
  // Up to direct_rows rows of attention over a cache. scores [rows][kKeyBlock] = q (packed [dim][rows]) times the keys of
  // `panels` times nr / 16 pages; their values, and the keys of as many pages behind them (kAheadPages at most), are fetched
  // meanwhile.
  int direct_rows;
  void (*key_scores[kCaches])(int rows, const CachedKeys& keys, int panels, int64_t dim, const float* q, float* scores);
  // out [rows][ldo] += weights [rows][kKeyBlock] times n values; ldo is a multiple of nr and at least dim.
  void (*mix_values[kCaches])(int rows, int64_t n, const float* weights, const CachedValues& values, int64_t dim, float* out,
                              int64_t ldo);

  void (*to_f32[kElems])(const void* src, float* dst, int64_t n);
  void (*from_f32[kElems])(const float* src, void* dst, int64_t n);
  void (*from_i8)(const int8_t* src, float scale, float* dst, int64_t n);
  void (*round_bf16)(const float* src, float* dst, int64_t n);
  float (*sum)(const float* x, int64_t n);
  double (*dot_double)(const float* x, const float* y, int64_t n);  // products exact, sum in double
  void (*add)(float* x, const float* y, int64_t n);
  void (*scale)(float* x, float c, int64_t n);
  void (*scaled_copy)(const float* x, float c, int64_t n, float* y);
  void (*rms_norm)(const float* x, const float* weight, float offset, float eps, int64_t n, float* y);
  void (*silu_mul)(const float* gate, const float* up, int64_t n, float* y);
  void (*gelu_mul)(const float* gate, const float* up, int64_t n, float* y);
  void (*softcap)(float* x, float cap, int64_t n);
  void (*rotate)(float* x, const float* cos, const float* sin, int64_t half);
  void (*exp)(const float* x, float* y, int64_t n);
  // Online softmax of one row of scores over columns [lo, hi) of a block: s becomes e^(s - new max), zero in
  // the rest of [begin, end); max and sum are updated; returns the factor by which earlier results shrink.
  float (*softmax_step)(float* s, int64_t lo, int64_t hi, int64_t begin, int64_t end, float* max,
                        double* sum);
  float (*max)(const float* x, int64_t n);
  int64_t (*first_equal)(const float* x, int64_t n, float value);  // n when there is none
  double (*exp_sum)(const float* x, int64_t n, float max);
  KlSums (*kl_sums)(const float* p, const float* q, int64_t n, float pmax, float qmax);
};

const Table& portable_table();
const Table& avx2_table();
const Table& avx512_table();
const Table& avx512bf16_table();
// The table of awq::isa(). Objects that prepack keep the table they were packed for.
const Table& table();

}  // namespace awq::simd
