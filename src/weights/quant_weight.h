// What quantized numbers mean (Scheme), and the one canonical exchange form between packings, quantizers and
// kernels (QuantWeight): hub and spokes, so that P packings and K kernels need P + K conversions. A QuantWeight
// is passed on one tensor at a time; it is never the resident form of a model.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "tensor/tensor.h"

namespace awq {

// kAffine: evenly spaced. kNf4: a code is an index into kNf4Values (QLoRA, Dettmers et al. 2023, appendix E).
enum class CodeKind : uint8_t { kAffine, kNf4 };
// kNone: symmetric, the zero point is 2^(bits-1). kInteger: an unsigned integer per group. kReal: the value of code 0 is a
// number of its own per group (GGUF's Q4_1, llm-awq's scaled zeros).
enum class ZeroKind : uint8_t { kNone, kInteger, kReal };
// What the linear does to its inputs. kInt8Token: each token to integers -127..127 of its own scale max|x|/127, products
// of integers (SmoothQuant). kInt8Outliers: the same, but inputs of at least Scheme::outlier_threshold stay in 16 bits
// (LLM.int8, Dettmers et al. 2022); they are set apart token by token, so that a result does not depend on the batch.
enum class Activations : uint8_t { kFloat, kInt8Token, kInt8Outliers };

inline constexpr int kNf4Codes = 16;
extern const float kNf4Values[kNf4Codes];

struct Scheme {
  CodeKind code = CodeKind::kAffine;
  int bits = 4;     // 2..8; 4 for kNf4
  int group = 128;  // consecutive input columns sharing scale and zero; -1: all columns of a row
  ZeroKind zero = ZeroKind::kInteger;  // kNone for kNf4
  Activations activations = Activations::kFloat;
  float outlier_threshold = 0;  // of kInt8Outliers

  bool operator==(const Scheme&) const = default;
  // "w4g128z" (integer zero point), "w4g128r" (real), "w4g128" (symmetric), "w8gcz" (group -1), "nf4g64"; with int8
  // activations "w8gc-a8", with outliers from 6 on left out "w8gc-a8o6".
  std::string text() const;
  int max_code() const { return (1 << bits) - 1; }
  int64_t group_size(int64_t cols) const { return group < 0 ? cols : group; }
  int64_t groups(int64_t cols) const { return cols / group_size(cols); }
};

// A quantized matrix W [rows = outputs, cols = inputs]; products in float:
//   affine      W[n][k] = (code - zero) * scale
//   real zeros  W[n][k] = code * scale + offset
//   nf4         W[n][k] = kNf4Values[code] * scale
struct QuantWeight {
  Scheme scheme;
  int64_t rows = 0, cols = 0;
  std::vector<uint8_t> codes;           // [rows, cols], 0 .. max_code
  std::vector<float> scales;            // [rows, groups], each value exactly representable in scale_dtype
  std::vector<uint8_t> zeros;           // [rows, groups], 0 .. max_code; empty unless scheme.zero is kInteger
  DType scale_dtype = DType::kF16;      // F16, BF16 or F32: how scales and offsets lie on disk
  std::vector<float> offsets = {};      // [rows, groups]; empty unless scheme.zero is kReal

  int64_t groups() const { return scheme.groups(cols); }
  // Of affine codes without real zeros.
  int zero_at(int64_t row, int64_t g) const {
    return zeros.empty() ? 1 << (scheme.bits - 1) : zeros[row * groups() + g];
  }
};

// Reference: out [rows, cols] row-major.
void dequantize(const QuantWeight& w, float* out);
// Columns [k0, k0 + n) of one row.
void dequantize_row(const QuantWeight& w, int64_t row, int64_t k0, int64_t n, float* out);
// Throws kInternal unless sizes agree with the scheme and every code and zero is in range.
void check_consistent(const QuantWeight& w);

// How a QuantWeight lies on disk: bit-exact layouts, docs/formats.md.
//
// AutoAWQ "gemm" (docs/formats.md, section a): qweight I32 [cols, rows/8], qzeros I32 [groups, rows/8],
// scales F16 [groups, rows]; 4 bits; nibble i of a word holds output 8c + {0,2,4,6,1,3,5,7}[i].
struct AwqGemmTensors {
  Tensor qweight, qzeros, scales;
};
// Symmetric weights are written with zero point 8. Throws kBadArgument unless bits == 4 and rows % 8 == 0.
AwqGemmTensors encode_awq_gemm(const QuantWeight& w);
// Shapes are checked against each other; group size is cols / rows of qzeros unless that is 1 (then -1 or
// the given group). scales may be F16, BF16 or F32. `name` is for error messages.
QuantWeight decode_awq_gemm(const Tensor& qweight, const Tensor& qzeros, const Tensor& scales, int group,
                            const std::string& name);

}  // namespace awq
