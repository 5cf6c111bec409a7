#include "formats/ggml_types.h"

#include <cstring>
#include <string_view>

#include "base/error.h"
#include "base/half.h"

namespace awq {
namespace {

float half_at(const uint8_t* p) {
  fp16_t bits;
  std::memcpy(&bits, p, 2);
  return fp16_to_f32(bits);
}

// Calls block(src, dst) for each block of `Weights` weights in `Bytes` bytes.
template <int Weights, int Bytes, void (*Block)(const uint8_t*, float*)>
void each_block(const std::byte* src, float* dst, int64_t n) {
  const auto* p = reinterpret_cast<const uint8_t*>(src);
  for (int64_t i = 0; i < n; i += Weights, p += Bytes) Block(p, dst + i);
}

template <DType Plain>
void plain(const std::byte* src, float* dst, int64_t n) {
  convert_to_f32(Plain, src, dst, n);
}

// d | 16 bytes: byte l holds weight l (low nibble) and weight l+16 (high); w = d (q - 8)
void q4_0(const uint8_t* p, float* w) {
  const float d = half_at(p);
  for (int l = 0; l < 16; ++l) {
    w[l] = d * static_cast<float>((p[2 + l] & 15) - 8);
    w[l + 16] = d * static_cast<float>((p[2 + l] >> 4) - 8);
  }
}

// d | m | 16 bytes as above; w = d q + m
void q4_1(const uint8_t* p, float* w) {
  const float d = half_at(p), m = half_at(p + 2);
  for (int l = 0; l < 16; ++l) {
    w[l] = d * static_cast<float>(p[4 + l] & 15) + m;
    w[l + 16] = d * static_cast<float>(p[4 + l] >> 4) + m;
  }
}

// The fifth bits of Q5_0 and Q5_1: bit i of the u32 at `qh` belongs to weight i.
int q5(const uint8_t* qh, const uint8_t* qs, int i) {
  const int low = i < 16 ? qs[i] & 15 : qs[i - 16] >> 4;
  return low | ((qh[i / 8] >> (i % 8)) & 1) << 4;
}

// d | u32 fifth bits | 16 bytes; w = d (q - 16)
void q5_0(const uint8_t* p, float* w) {
  const float d = half_at(p);
  for (int i = 0; i < 32; ++i) w[i] = d * static_cast<float>(q5(p + 2, p + 6, i) - 16);
}

// d | m | u32 fifth bits | 16 bytes; w = d q + m
void q5_1(const uint8_t* p, float* w) {
  const float d = half_at(p), m = half_at(p + 2);
  for (int i = 0; i < 32; ++i) w[i] = d * static_cast<float>(q5(p + 4, p + 8, i)) + m;
}

// d | 32 x int8; w = d q
void q8_0(const uint8_t* p, float* w) {
  const float d = half_at(p);
  for (int i = 0; i < 32; ++i) w[i] = d * static_cast<float>(static_cast<int8_t>(p[2 + i]));
}

// 16 scales (low nibble scale, high nibble min) | 64 bytes of 2-bit codes | d | dmin
void q2_k(const uint8_t* p, float* w) {
  const uint8_t *scales = p, *qs = p + 16;
  const float d = half_at(p + 80), dmin = half_at(p + 82);
  for (int i = 0; i < 256; ++i) {
    const int h = i / 128, k = i % 128 / 32, l = i % 32;
    const int q = (qs[32 * h + l] >> (2 * k)) & 3;
    const uint8_t s = scales[i / 16];
    w[i] = d * static_cast<float>(s & 15) * static_cast<float>(q) - dmin * static_cast<float>(s >> 4);
  }
}

// 32 bytes of high bits | 64 bytes of 2-bit codes | 12 bytes of 6-bit scales | d
void q3_k(const uint8_t* p, float* w) {
  const uint8_t *high = p, *qs = p + 32, *packed = p + 96;
  const float d = half_at(p + 108);
  for (int s = 0; s < 16; ++s) {
    const int low4 = (packed[s % 8] >> (4 * (s / 8))) & 15, high2 = (packed[8 + s % 4] >> (2 * (s / 4))) & 3;
    const float scale = d * static_cast<float>((low4 | high2 << 4) - 32);
    for (int i = 16 * s; i < 16 * s + 16; ++i) {
      const int h = i / 128, k = i % 128 / 32, l = i % 32;
      const int q = ((qs[32 * h + l] >> (2 * k)) & 3) - ((high[l] >> (4 * h + k)) & 1 ? 0 : 4);
      w[i] = scale * static_cast<float>(q);
    }
  }
}

// Scale and min (6 bits each) of sub-block j of Q4_K and Q5_K, from 12 bytes.
void k4_scale_min(const uint8_t* s, int j, int& scale, int& min) {
  if (j < 4) {
    scale = s[j] & 63;
    min = s[j + 4] & 63;
  } else {
    scale = (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
    min = (s[j + 4] >> 4) | (s[j] >> 6) << 4;
  }
}

// d | dmin | 12 bytes of scales | [32 bytes of fifth bits] | 128 bytes: 8 sub-blocks of 32, two to a byte
void q45_k(const uint8_t* p, const uint8_t* fifth, const uint8_t* qs, float* w) {
  const float d = half_at(p), dmin = half_at(p + 2);
  for (int j = 0; j < 8; ++j) {
    int scale, min;
    k4_scale_min(p + 4, j, scale, min);
    const float ds = d * static_cast<float>(scale), m = dmin * static_cast<float>(min);
    for (int l = 0; l < 32; ++l) {
      const int low = (qs[32 * (j / 2) + l] >> (4 * (j % 2))) & 15;
      const int q = low | (fifth ? (fifth[l] >> j & 1) << 4 : 0);
      w[32 * j + l] = ds * static_cast<float>(q) - m;
    }
  }
}
void q4_k(const uint8_t* p, float* w) { q45_k(p, nullptr, p + 16, w); }
void q5_k(const uint8_t* p, float* w) { q45_k(p, p + 16, p + 48, w); }

// 128 bytes of low nibbles | 64 bytes of high bit pairs | 16 x int8 scales | d
void q6_k(const uint8_t* p, float* w) {
  const uint8_t *ql = p, *qh = p + 128, *scales = p + 192;
  const float d = half_at(p + 208);
  for (int i = 0; i < 256; ++i) {
    const int h = i / 128, k = i % 128 / 32, l = i % 32;
    const int low = (ql[64 * h + 32 * (k % 2) + l] >> (k < 2 ? 0 : 4)) & 15;
    const int high = (qh[32 * h + l] >> (2 * k)) & 3;
    const float scale = d * static_cast<float>(static_cast<int8_t>(scales[i / 16]));
    w[i] = scale * static_cast<float>((low | high << 4) - 32);
  }
}

// IQ4_NL and IQ4_XS: what a 4-bit code stands for, denser around zero.
constexpr int8_t kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

// 32 weights from 16 bytes: byte l holds weight l (low nibble) and weight l+16 (high).
void table_nibbles(const uint8_t* qs, const int8_t* values, float d, float* w) {
  for (int l = 0; l < 16; ++l) {
    w[l] = d * static_cast<float>(values[qs[l] & 15]);
    w[l + 16] = d * static_cast<float>(values[qs[l] >> 4]);
  }
}

// d | 16 bytes; w = d value(q)
void iq4_nl(const uint8_t* p, float* w) { table_nibbles(p + 2, kIq4Values, half_at(p), w); }

// d | u16 high scale bits | 4 bytes of low scale nibbles | 128 bytes: 8 sub-blocks of 32; scales are 6 bits less 32
void iq4_xs(const uint8_t* p, float* w) {
  const float d = half_at(p);
  const int high = p[2] | p[3] << 8;
  for (int j = 0; j < 8; ++j) {
    const int low4 = (p[4 + j / 2] >> (4 * (j % 2))) & 15, high2 = (high >> (2 * j)) & 3;
    table_nibbles(p + 8 + 16 * j, kIq4Values, d * static_cast<float>((low4 | high2 << 4) - 32), w + 32 * j);
  }
}

// FP4 (E2M1) doubled, so that the values are whole.
constexpr int8_t kFp4Doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

// u8 exponent | 16 bytes; w = 2^(e - 127) value(q)  (OCP Microscaling Formats 1.0)
void mxfp4(const uint8_t* p, float* w) {
  // Half the scale, against the doubled values; e < 2 makes it subnormal.
  const uint32_t bits = p[0] < 2 ? 0x00200000u << p[0] : (p[0] - 1u) << 23;
  float half_scale;
  std::memcpy(&half_scale, &bits, 4);
  table_nibbles(p + 1, kFp4Doubled, half_scale, w);
}

// clang-format off
constexpr GgmlType kTypes[] = {
    {0, "F32", 1, 4, DType::kF32, plain<DType::kF32>},
    {1, "F16", 1, 2, DType::kF16, plain<DType::kF16>},
    {30, "BF16", 1, 2, DType::kBF16, plain<DType::kBF16>},
    {28, "F64", 1, 8, DType::kF64, plain<DType::kF64>},
    {2, "Q4_0", 32, 18, {}, each_block<32, 18, q4_0>},
    {3, "Q4_1", 32, 20, {}, each_block<32, 20, q4_1>},
    {6, "Q5_0", 32, 22, {}, each_block<32, 22, q5_0>},
    {7, "Q5_1", 32, 24, {}, each_block<32, 24, q5_1>},
    {8, "Q8_0", 32, 34, {}, each_block<32, 34, q8_0>},
    {10, "Q2_K", 256, 84, {}, each_block<256, 84, q2_k>},
    {11, "Q3_K", 256, 110, {}, each_block<256, 110, q3_k>},
    {12, "Q4_K", 256, 144, {}, each_block<256, 144, q4_k>},
    {13, "Q5_K", 256, 176, {}, each_block<256, 176, q5_k>},
    {14, "Q6_K", 256, 210, {}, each_block<256, 210, q6_k>},
    {20, "IQ4_NL", 32, 18, {}, each_block<32, 18, iq4_nl>},
    {23, "IQ4_XS", 256, 136, {}, each_block<256, 136, iq4_xs>},
    {39, "MXFP4", 32, 17, {}, each_block<32, 17, mxfp4>},
    // Integers hold no weights; they can be listed and viewed, not dequantized.
    {24, "I8", 1, 1, DType::kI8, nullptr},
    {25, "I16", 1, 2, DType::kI16, nullptr},
    {26, "I32", 1, 4, DType::kI32, nullptr},
    {27, "I64", 1, 8, DType::kI64, nullptr},
    // Known sizes only: files holding them can be listed.
    {9, "Q8_1", 32, 36, {}, nullptr},
    {15, "Q8_K", 256, 292, {}, nullptr},
    {16, "IQ2_XXS", 256, 66, {}, nullptr},
    {17, "IQ2_XS", 256, 74, {}, nullptr},
    {18, "IQ3_XXS", 256, 98, {}, nullptr},
    {19, "IQ1_S", 256, 50, {}, nullptr},
    {21, "IQ3_S", 256, 110, {}, nullptr},
    {22, "IQ2_S", 256, 82, {}, nullptr},
    {29, "IQ1_M", 256, 56, {}, nullptr},
    {34, "TQ1_0", 256, 54, {}, nullptr},
    {35, "TQ2_0", 256, 66, {}, nullptr},
};
// clang-format on

}  // namespace

const GgmlType* find_ggml_type(uint32_t id) {
  for (const GgmlType& t : kTypes)
    if (t.id == id) return &t;
  return nullptr;
}

const GgmlType* find_ggml_type(std::string_view name) {
  for (const GgmlType& t : kTypes)
    if (t.name == name) return &t;
  return nullptr;
}

std::string readable_ggml_types() {
  std::string text;
  for (const GgmlType& t : kTypes)
    if (t.dequantize) text += (text.empty() ? "" : ", ") + std::string(t.name);
  return text;
}

void dequantize_block_type(const GgmlType& type, const std::byte* src, float* dst, int64_t n,
                           const std::string& where) {
  if (!type.dequantize)
    fail(Code::kUnsupported, "{}: cannot read tensor type {} (readable: {})", where, type.name,
         readable_ggml_types());
  type.dequantize(src, dst, n);
}

}  // namespace awq
