// NF4's table for device code: weights/quant_weight.h's kNf4Values (a test holds them equal), and what it is in 16 bits.
#pragma once
#include <bit>
#include <cstdint>

namespace awq::cuda {

inline constexpr float kNf4Table[16] = {-1.0f,
                                   -0.6961928009986877f,
                                   -0.5250730514526367f,
                                   -0.39491748809814453f,
                                   -0.28444138169288635f,
                                   -0.18477343022823334f,
                                   -0.09105003625154495f,
                                   0.0f,
                                   0.07958029955625534f,
                                   0.16093020141124725f,
                                   0.24611230194568634f,
                                   0.33791524171829224f,
                                   0.44070982933044434f,
                                   0.5626170039176941f,
                                   0.7229568362236023f,
                                   1.0f};

// The bits of a table entry, rounded to nearest; entries are 0 or at least 2^-14, which fp16 holds as normal numbers.
constexpr uint16_t nf4_f16(int code) {
  const auto bits = std::bit_cast<uint32_t>(kNf4Table[code]), size = bits & 0x7fffffffu;
  const uint32_t rounded = (size + 0xfffu + (size >> 13 & 1u)) >> 13;
  return static_cast<uint16_t>((bits >> 16 & 0x8000u) | (size == 0 ? 0 : rounded - (112u << 10)));
}
constexpr uint16_t nf4_bf16(int code) {
  const auto bits = std::bit_cast<uint32_t>(kNf4Table[code]);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

}  // namespace awq::cuda
