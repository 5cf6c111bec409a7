// The int8 products for AVX2 with AVX-VNNI (256-bit VPDPBUSD, on processors without AVX-512); compiled with
// those flags.
#include <immintrin.h>

#include "kernels/cpu/int8_table.h"

namespace awq::simd {
namespace {
#include "kernels/cpu/vec_int8_256.inc"

template <int kBits>
inline I dot(I sum, C c, __m256i q) {
  return {_mm256_dpbusd_avx_epi32(sum.a, c.a, q), _mm256_dpbusd_avx_epi32(sum.b, c.b, q)};
}
inline I add_product(I sum, I zero, int32_t n) {
  const __m256i v = _mm256_set1_epi32(n);
  return {_mm256_dpwssd_avx_epi32(sum.a, zero.a, v), _mm256_dpwssd_avx_epi32(sum.b, zero.b, v)};
}

constexpr bool kWideDiffers = false;  // products of 8-bit codes are formed otherwise
#include "kernels/cpu/body_int8.inc"
}  // namespace

const Int8Table& int8_avxvnni() {
  static const Int8Table table = make_int8_table("avxvnni");
  return table;
}

}  // namespace awq::simd
