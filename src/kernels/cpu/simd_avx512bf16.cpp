// The AVX-512 kernels with bfloat16 products (VDPBF16PS: two products per lane and step, sums in fp32,
// subnormal inputs and results taken as zero); compiled with those flags.
// GCC 12 reports the deliberately undefined operands inside its own intrinsics (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

#include "kernels/cpu/simd_table.h"

namespace awq::simd {
namespace {
// clang-format off
#include "kernels/cpu/vec_avx512.inc"
#include "kernels/cpu/body_gemm.inc"
#include "kernels/cpu/body_gemv.inc"
#include "kernels/cpu/body_rows.inc"
#include "kernels/cpu/body_attention.inc"
#include "kernels/cpu/body_table.inc"
// clang-format on

struct StepBf16 {
  static F mac(F acc, const float* a, F b) {
    const __m512i pair = _mm512_castps_si512(set1(*a));
    return _mm512_dpbf16_ps(acc, (__m512bh)pair, (__m512bh)_mm512_castps_si512(b));
  }
};

// 32 floats to 16 pairs in order: lane i holds (2i, 2i + 1).
inline F pairs_of(F first, F second) {
  return _mm512_castsi512_ps((__m512i)_mm512_cvtne2ps_pbh(second, first));
}

// Lane i holds (even[i], odd[i]).
inline F interleave(F even, F odd) {
  alignas(64) static constexpr uint16_t kOrder[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                      21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                      11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(odd, even);
  return _mm512_castsi512_ps(_mm512_permutexvar_epi16(_mm512_load_si512(kOrder), both));
}

// Columns [k, k + n) of a row as pairs, n <= 32, missing ones zero.
template <Elem kElem>
inline F row_pairs(const void* row, int64_t k, int64_t n) {
  if (n >= 2 * W) {
    if constexpr (kElem == Elem::kBF16)
      return load(reinterpret_cast<const float*>(static_cast<const uint16_t*>(row) + k));
    return pairs_of(load_elem<kElem>(row, k), load_elem<kElem>(row, k + W));
  }
  return pairs_of(load_elem_n<kElem>(row, k, n < W ? n : W),
                  n > W ? load_elem_n<kElem>(row, k + W, n - W) : F{});
}

void pack_a_bf16(const float* x, int64_t ldx, int rows, int64_t k, float* out) {
  for (int64_t k0 = 0; k0 < k; k0 += 2 * W) {
    const int64_t kn = k - k0 < 2 * W ? k - k0 : 2 * W;
    F r[W];
    for (int i = 0; i < W; ++i) r[i] = i < rows ? row_pairs<Elem::kF32>(x + i * ldx, k0, kn) : F{};
    transpose(r);
    for (int64_t i = 0; i < (kn + 1) / 2; ++i) store_n(out + (k0 / 2 + i) * rows, r[i], rows);
  }
}

template <Elem kElem>
void pack_b_bf16(const void* const* rows, int n, int64_t k0, int64_t kn, float* panel) {
  for (int c = 0; c < kNr; c += W)
    for (int64_t k = 0; k < kn; k += 2 * W) {
      const int64_t left = kn - k < 2 * W ? kn - k : 2 * W;
      F r[W];
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) r[i] = c + i < n ? row_pairs<kElem>(rows[c + i], k0 + k, left) : F{};
      transpose(r);
      const int64_t steps = (left + 1) / 2;
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i)
        if (i < steps) store(panel + (k / 2 + i) * kNr + c, r[i]);
    }
}

template <int kBits, bool kLevels>
void pack_quant_bf16_bits(const QuantView& w, int64_t block, int blocks, int64_t k0, int64_t kn,
                          float* panel) {
  for (int c = 0; c < kNr; c += W) {
    float* out = panel + c;
    if (c / kRowBlock >= blocks) {
      for (int64_t k = 0; k < kn; k += 2) store(out + k / 2 * kNr, F{});
      continue;
    }
    F even = F{};
    each_column<kBits, kLevels>(w, block + c / kRowBlock, 0, k0, kn, [&](int64_t k, F v) {
      if (k % 2 == 0) {
        even = v;
      } else {
        store(out + k / 2 * kNr, interleave(even, v));
      }
    });
    if (kn % 2) store(out + kn / 2 * kNr, interleave(even, F{}));
  }
}

void pack_quant_bf16(const QuantView& w, int64_t block, int blocks, int64_t k0, int64_t kn, float* panel) {
  w.levels      ? pack_quant_bf16_bits<4, true>(w, block, blocks, k0, kn, panel)
  : w.bits == 4 ? pack_quant_bf16_bits<4, false>(w, block, blocks, k0, kn, panel)
                : pack_quant_bf16_bits<8, false>(w, block, blocks, k0, kn, panel);
}

void pair_bf16(const float* even, const float* odd, int64_t n, float* out) {
  for (int64_t i = 0; i < n; i += W) {
    const int64_t m = n - i < W ? n - i : W;
    store_n(out + i, interleave(load_n(even + i, m), odd ? load_n(odd + i, m) : F{}), m);
  }
}
}  // namespace

const Table& avx512bf16_table() {
  static const Table table = [] {
    Table t = make_table("avx512bf16");
    t.bf16 = true;
    fill_micro<StepBf16, 0>(t.micro_bf16);
    t.pack_a_bf16 = pack_a_bf16;
    t.pack_b_bf16[0] = pack_b_bf16<Elem::kF32>;
    t.pack_b_bf16[1] = pack_b_bf16<Elem::kF16>;
    t.pack_b_bf16[2] = pack_b_bf16<Elem::kBF16>;
    t.pack_quant_bf16 = pack_quant_bf16;
    t.pair_bf16 = pair_bf16;
    return t;
  }();
  return table;
}

}  // namespace awq::simd
