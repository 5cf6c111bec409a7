// The int8 products in plain C++.
#include "base/half.h"
#include "kernels/cpu/int8_table.h"

namespace awq::simd {
namespace {

struct I {
  int32_t v[kInt8Rows];
};
struct F {
  float v[kInt8Rows];
};
struct C {
  uint8_t v[4 * kInt8Rows];
};
constexpr int kStreams = 1, kStreamTokens = 1;
constexpr int kGemmTokens = 2, kGemmBlocks = 1;

inline C load_bytes(const uint8_t* p) {
  C c;
  __builtin_memcpy(c.v, p, sizeof c.v);
  return c;
}
inline C load_codes(const uint32_t* p) {
  C c;
  __builtin_memcpy(c.v, p, sizeof c.v);
  return c;
}
inline void store_codes(uint8_t* p, const C& c) { __builtin_memcpy(p, c.v, sizeof c.v); }
template <class Op>
inline C each_byte(const Op& op) {
  C c;
  for (int i = 0; i < 4 * kInt8Rows; ++i) c.v[i] = static_cast<uint8_t>(op(i));
  return c;
}
inline C low_nibbles(const C& c) {
  return each_byte([&](int i) { return c.v[i] & 15; });
}
inline C high_nibbles(const C& c) {
  return each_byte([&](int i) { return c.v[i] >> 4; });
}
template <int kS>
inline C three_bits(const C& low, const C& high) {
  return each_byte(
      [&](int i) { return ((low.v[i] >> (2 * (kS % 4))) & 3) | (((high.v[i] >> kS) & 1) << 2); });
}
inline I set_int(int v) {
  I r;
  for (int32_t& x : r.v) x = v;
  return r;
}
inline const int8_t* broadcast_four(const int8_t* q) { return q; }
template <int kBits>
inline I dot(I sum, const C& c, const int8_t* q) {
  for (int i = 0; i < kInt8Rows; ++i)
    for (int j = 0; j < 4; ++j) sum.v[i] += c.v[4 * i + j] * q[j];
  return sum;
}
inline I add_product(I sum, const I& zero, int32_t n) {
  for (int i = 0; i < kInt8Rows; ++i) sum.v[i] += zero.v[i] * n;
  return sum;
}
inline I add_ints(const I& a, const I& b) {
  I r;
  for (int i = 0; i < kInt8Rows; ++i) r.v[i] = a.v[i] + b.v[i];
  return r;
}
inline I load_zeros(const unsigned char* p) {
  I r;
  for (int i = 0; i < kInt8Rows; ++i) r.v[i] = p[i];
  return r;
}
template <class Op>
inline F each_float(const Op& op) {
  F r;
  for (int i = 0; i < kInt8Rows; ++i) r.v[i] = op(i);
  return r;
}
inline F load_half_scales(const unsigned char* p) {
  uint16_t half[kInt8Rows];
  __builtin_memcpy(half, p, sizeof half);
  return each_float([&](int i) { return fp16_to_f32(half[i]); });
}
inline F load_scales(const unsigned char* p) {
  F r;
  __builtin_memcpy(r.v, p, sizeof r.v);
  return r;
}
inline F zero_floats() {
  return each_float([](int) { return 0.0f; });
}
inline F to_floats(const I& v) {
  return each_float([&](int i) { return static_cast<float>(v.v[i]); });
}
inline F multiply(const F& a, float b) {
  return each_float([&](int i) { return a.v[i] * b; });
}
inline F multiply_add(const F& a, const F& b, const F& c) {
  return each_float([&](int i) { return __builtin_fmaf(a.v[i], b.v[i], c.v[i]); });
}
inline void store_floats(float* p, const F& v) { __builtin_memcpy(p, v.v, sizeof v.v); }
inline F load_rows(const float* p, int64_t left) {
  return each_float([&](int i) { return i < left ? p[i] : 0.0f; });
}
inline float largest(const float* x, int64_t n) {
  uint32_t top = 0;
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t bits = __builtin_bit_cast(uint32_t, x[i]) & 0x7fffffffu;
    top = top > bits ? top : bits;
  }
  return __builtin_bit_cast(float, top);
}
inline int32_t to_bytes(const float* x, int64_t n, float factor, int8_t* q) {
  int32_t sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    // Adding 1.5 * 2^23 leaves no bits behind the point: rounded to nearest, ties to even.
    const float rounded = (x[i] * factor + 12582912.0f) - 12582912.0f;
    q[i] = static_cast<int8_t>(rounded);
    sum += q[i];
  }
  return sum;
}

constexpr bool kWideDiffers = false;  // products of 8-bit codes are formed otherwise
#include "kernels/cpu/body_int8.inc"
}  // namespace

const Int8Table& int8_portable() {
  static const Int8Table table = make_int8_table("portable");
  return table;
}

}  // namespace awq::simd
