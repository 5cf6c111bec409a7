// AutoAWQ's "gemm" layout (docs/formats.md, section a), the one every AWQ loader takes.
//
//   qweight [cols, rows/8]: one 32-bit word holds one input column of eight outputs 8c .. 8c+7
//
//     bits   0-3  4-7  8-11 12-15 16-19 20-23 24-27 28-31
//     output  0    2    4    6     1     3     5     7      (+ 8c)
//
//   qzeros [groups, rows/8] is packed the same way; scales [groups, rows] is plain.
//
// So the disk order is the transpose of ours, [rows, cols]; both directions walk tiles of 16 words (one cache
// line of a qweight row, 128 outputs) by 64 columns.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "base/half.h"
#include "base/thread_pool.h"
#include "weights/packing/parts.h"

namespace awq {
namespace {

constexpr int kPerWord = 8;
constexpr int64_t kTileWords = 16;
constexpr int64_t kTileCols = 64;
// kShift[j]: where output 8c+j sits in its word.
constexpr std::array<int, kPerWord> kShift = {0, 16, 4, 20, 8, 24, 12, 28};

// Words are read and written byte-wise: a mapped tensor may lie at any offset.
uint32_t load_word(const std::byte* words, int64_t i) {
  uint32_t word;
  std::memcpy(&word, words + 4 * i, 4);
  return word;
}

void store_word(std::byte* words, int64_t i, uint32_t word) { std::memcpy(words + 4 * i, &word, 4); }

// nibbles [rows, cols] -> words [cols, rows/8]
void pack(const uint8_t* nibbles, int64_t rows, int64_t cols, std::byte* words) {
  const int64_t width = rows / kPerWord;
  parallel_for((width + kTileWords - 1) / kTileWords, [&](int64_t tile) {
    const int64_t c0 = tile * kTileWords, c1 = std::min(width, c0 + kTileWords);
    for (int64_t k0 = 0; k0 < cols; k0 += kTileCols) {
      for (int64_t k = k0; k < std::min(cols, k0 + kTileCols); ++k) {
        for (int64_t c = c0; c < c1; ++c) {
          uint32_t word = 0;
          for (int j = 0; j < kPerWord; ++j)
            word |= static_cast<uint32_t>(nibbles[(kPerWord * c + j) * cols + k]) << kShift[j];
          store_word(words, k * width + c, word);
        }
      }
    }
  });
}

// words [cols, rows/8] -> nibbles [rows, cols]. Through a small tile: rows of a power-of-two length would
// otherwise fight for the same few cache lines.
void unpack(const std::byte* words, int64_t rows, int64_t cols, uint8_t* nibbles) {
  const int64_t width = rows / kPerWord;
  parallel_for((width + kTileWords - 1) / kTileWords, [&](int64_t index) {
    const int64_t c0 = index * kTileWords, c1 = std::min(width, c0 + kTileWords);
    uint8_t tile[kTileWords * kPerWord][kTileCols];
    for (int64_t k0 = 0; k0 < cols; k0 += kTileCols) {
      const int64_t k1 = std::min(cols, k0 + kTileCols);
      for (int64_t k = k0; k < k1; ++k) {
        for (int64_t c = c0; c < c1; ++c) {
          const uint32_t word = load_word(words, k * width + c);
          for (int j = 0; j < kPerWord; ++j) tile[kPerWord * (c - c0) + j][k - k0] = (word >> kShift[j]) & 15;
        }
      }
      for (int64_t n = kPerWord * c0; n < kPerWord * c1; ++n)
        std::memcpy(nibbles + n * cols + k0, tile[n - kPerWord * c0], static_cast<size_t>(k1 - k0));
    }
  });
}

void expect(const Tensor& t, DType dtype, const Shape& shape, const std::string& name, const char* part) {
  if (t.dtype() != dtype || t.shape() != shape)
    fail(Code::kBadFile, "{}.{}: expected {} {}, got {} {}", name, part, dtype_name(dtype), shape_text(shape),
         dtype_name(t.dtype()), shape_text(t.shape()));
}

// The group size the shapes imply; `asked` is what the checkpoint's configuration says.
int group_from_shapes(int64_t cols, int64_t groups, int64_t rows, int asked, const std::string& name) {
  if (groups < 1 || cols % groups != 0)
    fail(Code::kBadFile, "{}.qzeros: {} groups do not divide {} input columns", name, groups, cols);
  if (asked < 0 ? groups == 1 : cols == groups * asked) return asked < 0 ? -1 : asked;
  const int64_t expected = asked < 0 ? 1 : asked == 0 ? 0 : cols / asked;
  fail(Code::kBadFile, "{}.qzeros: expected shape {} for group size {}, got {}", name,
       shape_text({expected, rows / kPerWord}), asked, shape_text({groups, rows / kPerWord}));
}

// scales [groups, rows] on disk -> [rows, groups]
std::vector<float> read_scales(const Tensor& scales, int64_t rows, int64_t groups, const std::string& name) {
  std::vector<float> by_group(static_cast<size_t>(rows * groups)), out(by_group.size());
  convert_to_f32(scales.dtype(), scales.bytes(), by_group.data(), rows * groups);
  for (int64_t g = 0; g < groups; ++g) {
    for (int64_t n = 0; n < rows; ++n) {
      const float s = by_group[g * rows + n];
      if (!std::isfinite(s))
        fail(Code::kBadFile, "{}.scales: expected finite values, got {} at element {}", name, s,
             g * rows + n);
      out[n * groups + g] = s;
    }
  }
  return out;
}

}  // namespace

AwqGemmTensors encode_awq_gemm(const QuantWeight& w) {
  if (w.scheme.bits != 4)
    fail(Code::kBadArgument,
         "awq gemm layout: expected 4 bits, got {}; write other widths with --format dense", w.scheme.bits);
  if (w.rows % kPerWord != 0)
    fail(Code::kBadArgument,
         "awq gemm layout: expected a multiple of 8 outputs, got {}; leave the layer out with --skip",
         w.rows);
  if (w.scale_dtype != DType::kF16 && w.scale_dtype != DType::kBF16)
    fail(Code::kBadArgument, "awq gemm layout: expected F16 or BF16 scales, got {}",
         dtype_name(w.scale_dtype));
  check_consistent(w);

  const int64_t groups = w.groups(), width = w.rows / kPerWord;
  AwqGemmTensors out{Tensor(DType::kI32, {w.cols, width}), Tensor(DType::kI32, {groups, width}),
                     Tensor(w.scale_dtype, {groups, w.rows})};
  pack(w.codes.data(), w.rows, w.cols, out.qweight.mutable_bytes());

  // Loaders read a zero point in any case, so symmetric weights carry theirs: 8 everywhere.
  const std::vector<uint8_t> symmetric(w.zeros.empty() ? w.scales.size() : 0, 8);
  pack(w.zeros.empty() ? symmetric.data() : w.zeros.data(), w.rows, groups, out.qzeros.mutable_bytes());

  std::vector<float> by_group(w.scales.size());
  for (int64_t n = 0; n < w.rows; ++n)
    for (int64_t g = 0; g < groups; ++g) by_group[g * w.rows + n] = w.scales[n * groups + g];
  convert_from_f32(by_group.data(), w.scale_dtype, out.scales.mutable_bytes(),
                   static_cast<int64_t>(by_group.size()));
  return out;
}

QuantWeight decode_awq_gemm(const Tensor& qweight, const Tensor& qzeros, const Tensor& scales, int group,
                            const std::string& name) {
  if (qweight.rank() != 2 || qweight.dtype() != DType::kI32 || qweight.numel() == 0)
    fail(Code::kBadFile, "{}.qweight: expected I32 [inputs, outputs/8], got {} {}", name,
         dtype_name(qweight.dtype()), shape_text(qweight.shape()));
  const int64_t cols = qweight.dim(0), rows = qweight.dim(1) * kPerWord;
  if (qzeros.rank() != 2)
    expect(qzeros, DType::kI32, {group < 1 ? 1 : cols / group, qweight.dim(1)}, name, "qzeros");
  const int64_t groups = qzeros.dim(0);
  expect(qzeros, DType::kI32, {groups, qweight.dim(1)}, name, "qzeros");

  QuantWeight w;
  w.rows = rows;
  w.cols = cols;
  w.scheme = {
      .bits = 4, .group = group_from_shapes(cols, groups, rows, group, name), .zero = ZeroKind::kInteger};
  w.scale_dtype = scales.dtype();
  const bool known =
      w.scale_dtype == DType::kF16 || w.scale_dtype == DType::kBF16 || w.scale_dtype == DType::kF32;
  expect(scales, known ? w.scale_dtype : DType::kF16, {groups, rows}, name, "scales");

  w.codes.resize(static_cast<size_t>(rows * cols));
  w.zeros.resize(static_cast<size_t>(rows * groups));
  unpack(qweight.bytes(), rows, cols, w.codes.data());
  unpack(qzeros.bytes(), rows, groups, w.zeros.data());
  w.scales = read_scales(scales, rows, groups, name);
  return w;
}

namespace packing {
namespace {

std::string refusal(const Scheme& s, int64_t rows, int64_t) {
  if (s.code != CodeKind::kAffine || s.zero == ZeroKind::kReal || s.activations != Activations::kFloat)
    return fmt::format("{}, expected evenly spaced codes with integer zero points", s.text());
  if (s.bits != 4) return fmt::format("{} bits, expected 4", s.bits);
  return rows % kPerWord == 0 ? "" : fmt::format("{} outputs are not a multiple of {}", rows, kPerWord);
}

std::vector<StoredPart> parts(const Scheme& s, int64_t rows, int64_t cols, DType) {
  const int64_t groups = s.groups(cols);
  return {{".qweight", DType::kI32, {cols, rows / kPerWord}},
          {".qzeros", DType::kI32, {groups, rows / kPerWord}},
          {".scales", DType::kF16, {groups, rows}}};
}

// Scales are F16 beside BF16 tensors too: those of a bfloat16 checkpoint are values of both.
std::vector<EncodedPart> encode(const QuantWeight& w, DType) {
  AwqGemmTensors t = encode_awq_gemm(w);
  return {{".qweight", std::move(t.qweight)}, {".qzeros", std::move(t.qzeros)}, {".scales", t.scales.dtype() == DType::kF16 ? t.scales : t.scales.to(DType::kF16)}};
}

QuantWeight decode(const PartSource& source, const FormHints& hints, const std::string& name) {
  const Tensor qweight = source.load(".qweight"), qzeros = source.load(".qzeros"), scales = source.load(".scales");
  return decode_awq_gemm(qweight, qzeros, scales, hints.group, name);
}

}  // namespace

const Form kAwqGemmForm = {StoredForm::kAwqGemm, "gemm", ".qweight", refusal, parts, encode, decode};

}  // namespace packing

}  // namespace awq
