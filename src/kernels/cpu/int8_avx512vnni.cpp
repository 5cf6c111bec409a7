// The int8 products for AVX-512 with VNNI; compiled with those flags.
#include <immintrin.h>

#include "kernels/cpu/int8_table.h"

namespace awq::simd {
namespace {

using I = __m512i;
using F = __m512;
using C = __m512i;
constexpr int kStreams = 4, kStreamTokens = 2;  // 8 sums and 8 totals
constexpr int kGemmTokens = 12,
              kGemmBlocks = 2;  // 24 sums, 2 vectors of codes, 1 of activations: 27 of 32 registers

inline C load_codes(const uint32_t* p) { return _mm512_loadu_si512(p); }
inline C load_bytes(const uint8_t* p) { return _mm512_loadu_si512(p); }
inline void store_codes(uint8_t* p, C c) { _mm512_storeu_si512(p, c); }
inline C low_nibbles(C v) { return _mm512_and_si512(v, _mm512_set1_epi8(15)); }
inline C high_nibbles(C v) { return _mm512_and_si512(_mm512_srli_epi32(v, 4), _mm512_set1_epi8(15)); }
template <int kS>
inline C three_bits(C low, C high) {
  const C two = _mm512_and_si512(_mm512_srli_epi32(low, 2 * (kS % 4)), _mm512_set1_epi8(3));
  const C one = kS < 2 ? _mm512_slli_epi32(high, 2 - kS % 3) : _mm512_srli_epi32(high, kS < 2 ? 0 : kS - 2);
  return _mm512_or_si512(two, _mm512_and_si512(one, _mm512_set1_epi8(4)));
}
inline I set_int(int v) { return _mm512_set1_epi32(v); }
inline I broadcast_four(const int8_t* q) {
  int32_t four;
  __builtin_memcpy(&four, q, 4);
  return _mm512_set1_epi32(four);
}
template <int kBits>
inline I dot(I sum, C c, I four) {
  return _mm512_dpbusd_epi32(sum, c, four);
}
// sum + zero * n; zero <= 255 and |n| < 2^15, so 16-bit products do.
inline I add_product(I sum, I zero, int32_t n) {
  return _mm512_dpwssd_epi32(sum, zero, _mm512_set1_epi32(n));
}
inline I add_ints(I a, I b) { return _mm512_add_epi32(a, b); }
inline I load_zeros(const unsigned char* p) {
  return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline F load_half_scales(const unsigned char* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline F load_scales(const unsigned char* p) { return _mm512_loadu_ps(p); }
inline F zero_floats() { return _mm512_setzero_ps(); }
inline F to_floats(I v) { return _mm512_cvtepi32_ps(v); }
inline F multiply(F a, float b) { return _mm512_mul_ps(a, _mm512_set1_ps(b)); }
inline F multiply_add(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
inline void store_floats(float* p, F v) { _mm512_storeu_ps(p, v); }
inline F load_rows(const float* p, int64_t left) {
  return left >= 16 ? _mm512_loadu_ps(p)
         : left > 0 ? _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << left) - 1), p)
                    : zero_floats();
}

inline __mmask16 mask_at(int64_t i, int64_t n) {
  return n - i >= 16 ? static_cast<__mmask16>(0xffff) : static_cast<__mmask16>((1u << (n - i)) - 1);
}
inline float largest(const float* x, int64_t n) {
  __m512i top = _mm512_setzero_si512();
  for (int64_t i = 0; i < n; i += 16) {
    const __m512i bits = _mm512_castps_si512(_mm512_maskz_loadu_ps(mask_at(i, n), x + i));
    top = _mm512_max_epu32(top, _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff)));
  }
  return __builtin_bit_cast(float, _mm512_reduce_max_epu32(top));
}
inline int32_t to_bytes(const float* x, int64_t n, float factor, int8_t* q) {
  __m512i sum = _mm512_setzero_si512();
  for (int64_t i = 0; i < n; i += 16) {
    const __mmask16 m = mask_at(i, n);
    const __m512i v =
        _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_maskz_loadu_ps(m, x + i), _mm512_set1_ps(factor)));
    sum = _mm512_add_epi32(sum, v);
    _mm_mask_storeu_epi8(q + i, m, _mm512_cvtsepi32_epi8(v));
  }
  return _mm512_reduce_add_epi32(sum);
}

constexpr bool kWideDiffers = false;  // products of 8-bit codes are formed otherwise
#include "kernels/cpu/body_int8.inc"
}  // namespace

const Int8Table& int8_avx512vnni() {
  static const Int8Table table = make_int8_table("avx512vnni");
  return table;
}

}  // namespace awq::simd
