// The int8 products for AVX2 with FMA and F16C; compiled with those flags.
#include <immintrin.h>

#include "kernels/cpu/int8_table.h"

namespace awq::simd {
namespace {
#include "kernels/cpu/vec_int8_256.inc"

// VPMADDUBSW adds two products into 16 bits, which codes up to 15 cannot overflow: 2 * 15 * 127 = 3810.
inline __m256i add_fours(__m256i sum, __m256i codes, __m256i q, int weight) {
  return _mm256_add_epi32(
      sum, _mm256_madd_epi16(_mm256_maddubs_epi16(codes, q), _mm256_set1_epi16(static_cast<short>(weight))));
}
template <int kBits>
inline I dot(I sum, C c, __m256i q) {
  if constexpr (kBits == 8) {  // as two digits of four bits
    sum = {add_fours(sum.a, high_half(c.a), q, 16), add_fours(sum.b, high_half(c.b), q, 16)};
    c = low_nibbles(c);
  }
  return {add_fours(sum.a, c.a, q, 1), add_fours(sum.b, c.b, q, 1)};
}
inline I add_product(I sum, I zero, int32_t n) {
  const __m256i v = _mm256_set1_epi32(n);
  return {_mm256_add_epi32(sum.a, _mm256_madd_epi16(zero.a, v)),
          _mm256_add_epi32(sum.b, _mm256_madd_epi16(zero.b, v))};
}

constexpr bool kWideDiffers = true;  // products of 8-bit codes are formed otherwise
#include "kernels/cpu/body_int8.inc"
}  // namespace

const Int8Table& int8_avx2() {
  static const Int8Table table = make_int8_table("avx2");
  return table;
}

}  // namespace awq::simd
