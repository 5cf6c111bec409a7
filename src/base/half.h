// fp16 (IEEE binary16) and bfloat16 conversions, portable and bit-exact: round to nearest, ties to even;
// subnormals kept; values beyond the range become infinity; NaN stays NaN (quiet). Kernels use the hardware
// instructions, which round identically.
#pragma once
#include <bit>
#include <cstdint>
#include <cstring>

namespace awq {

// Never emitted out of line: files compiled for newer instruction sets include this header too.
#define AWQ_INLINE [[gnu::always_inline]] inline

using fp16_t = uint16_t;  // bits
using bf16_t = uint16_t;  // bits

AWQ_INLINE float bf16_to_f32(bf16_t h) { return std::bit_cast<float>(static_cast<uint32_t>(h) << 16); }

AWQ_INLINE bf16_t f32_to_bf16(float f) {
  uint32_t u = std::bit_cast<uint32_t>(f);
  if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<bf16_t>((u >> 16) | 0x40);  // quiet NaN
  return static_cast<bf16_t>((u + 0x7fffu + ((u >> 16) & 1)) >> 16);
}

AWQ_INLINE float fp16_to_f32(fp16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
  const uint32_t exponent = (h >> 10) & 0x1f;
  const uint32_t mantissa = h & 0x3ff;
  if (exponent == 0) {  // zero or subnormal: mantissa * 2^-24
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(magnitude) | sign);
  }
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

AWQ_INLINE fp16_t f32_to_fp16(float f) {
  const uint32_t u = std::bit_cast<uint32_t>(f);
  const uint32_t sign = (u >> 16) & 0x8000u;
  const uint32_t a = u & 0x7fffffffu;
  if (a > 0x7f800000u) return static_cast<fp16_t>(sign | 0x7e00u);   // NaN
  if (a >= 0x477ff000u) return static_cast<fp16_t>(sign | 0x7c00u);  // rounds beyond 65504
  if (a < 0x38800000u) {  // below 2^-14: subnormal; adding 0.5 rounds at 2^-24 to nearest even
    const float shifted = std::bit_cast<float>(a) + 0.5f;
    return static_cast<fp16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000u));
  }
  return static_cast<fp16_t>(sign | ((a - 0x38000000u + 0xfffu + ((a >> 13) & 1)) >> 13));
}

AWQ_INLINE float round_to_fp16(float f) { return fp16_to_f32(f32_to_fp16(f)); }
AWQ_INLINE float round_to_bf16(float f) { return bf16_to_f32(f32_to_bf16(f)); }

}  // namespace awq
