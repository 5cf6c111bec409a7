#include "weights/quant_weight.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/half.h"
#include "base/thread_pool.h"

namespace awq {

// bitsandbytes' table (docs/formats.md, section g): quantiles of the normal distribution, scaled to [-1, 1].
const float kNf4Values[kNf4Codes] = {-1.0f,
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

namespace {

// Scales were rounded to scale_dtype before the codes were formed; writing them must not round them again.
bool representable(float scale, DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return true;
    case DType::kF16:
      return round_to_fp16(scale) == scale;
    case DType::kBF16:
      return round_to_bf16(scale) == scale;
    default:
      return false;
  }
}

// limit is 2^bits - 1. Eight values at a time: loading a model comes by here with every code.
void check_all_at_most(const std::vector<uint8_t>& values, int limit, const char* what) {
  uint64_t all = 0;
  size_t at = 0;
  for (; at + 8 <= values.size(); at += 8) {
    uint64_t eight;
    std::memcpy(&eight, values.data() + at, 8);
    all |= eight;
  }
  for (; at < values.size(); ++at) all |= values[at];
  if ((all & ~(0x0101010101010101u * static_cast<uint64_t>(limit))) == 0) return;
  for (size_t i = 0; i < values.size(); ++i)
    if (values[i] > limit)
      fail(Code::kInternal, "quantized weight: {} {} is {}, at most {} allowed", what, i, values[i], limit);
}

}  // namespace

std::string Scheme::text() const {
  const char* zeros[] = {"", "z", "r"};
  std::string out = fmt::format("{}g{}{}", code == CodeKind::kNf4 ? "nf4" : fmt::format("w{}", bits),
                                group < 0 ? "c" : std::to_string(group), zeros[static_cast<int>(zero)]);
  if (activations != Activations::kFloat) out += "-a8";
  if (activations == Activations::kInt8Outliers) out += fmt::format("o{:g}", outlier_threshold);
  return out;
}

namespace {

void check_scheme(const Scheme& s) {
  if (s.bits < 2 || s.bits > 8) fail(Code::kInternal, "quantized weight: {} bits, expected 2 to 8", s.bits);
  if (s.code == CodeKind::kNf4 && (s.bits != 4 || s.zero != ZeroKind::kNone))
    fail(Code::kInternal, "quantized weight {}: nf4 has 4 bits and no zero points", s.text());
  const bool outliers = s.activations == Activations::kInt8Outliers;
  if (outliers != (s.outlier_threshold > 0))
    fail(Code::kInternal, "quantized weight {}: an outlier threshold of {}", s.text(), s.outlier_threshold);
}

void check_floats(const std::vector<float>& values, DType dtype, const char* what) {
  for (size_t i = 0; i < values.size(); ++i)
    if (!std::isfinite(values[i]) || !representable(values[i], dtype))
      fail(Code::kInternal, "quantized weight: {} {} is {}, which {} cannot hold", what, i, values[i],
           dtype_name(dtype));
}

}  // namespace

void check_consistent(const QuantWeight& w) {
  const Scheme& s = w.scheme;
  check_scheme(s);
  if (w.rows < 1 || w.cols < 1)
    fail(Code::kInternal, "quantized weight: shape [{}, {}] is empty", w.rows, w.cols);
  if (s.group == 0 || s.group < -1 || w.cols % s.group_size(w.cols) != 0)
    fail(Code::kInternal, "quantized weight: group size {} does not divide {} columns", s.group, w.cols);

  const auto want_codes = static_cast<size_t>(w.rows * w.cols);
  const auto want_scales = static_cast<size_t>(w.rows * w.groups());
  const size_t want_zeros = s.zero == ZeroKind::kInteger ? want_scales : 0;
  const size_t want_offsets = s.zero == ZeroKind::kReal ? want_scales : 0;
  if (w.codes.size() != want_codes || w.scales.size() != want_scales || w.zeros.size() != want_zeros ||
      w.offsets.size() != want_offsets)
    fail(Code::kInternal,
         "quantized weight {} [{}, {}]: expected {} codes, {} scales, {} zeros, {} offsets, got {}, {}, {}, "
         "{}",
         s.text(), w.rows, w.cols, want_codes, want_scales, want_zeros, want_offsets, w.codes.size(),
         w.scales.size(), w.zeros.size(), w.offsets.size());

  check_all_at_most(w.codes, s.max_code(), "code");
  check_all_at_most(w.zeros, s.max_code(), "zero point");
  check_floats(w.scales, w.scale_dtype, "scale");
  check_floats(w.offsets, w.scale_dtype, "offset");
}

void dequantize_row(const QuantWeight& w, int64_t row, int64_t k0, int64_t n, float* out) {
  const int64_t groups = w.groups(), size = w.scheme.group_size(w.cols);
  const uint8_t* codes = w.codes.data() + row * w.cols;
  for (int64_t k = k0; k < k0 + n;) {
    const int64_t g = k / size, end = std::min(k0 + n, (g + 1) * size);
    const float scale = w.scales[row * groups + g];
    if (w.scheme.code == CodeKind::kNf4) {
      for (; k < end; ++k) *out++ = kNf4Values[codes[k]] * scale;
    } else if (w.scheme.zero == ZeroKind::kReal) {
      const float offset = w.offsets[row * groups + g];
      for (; k < end; ++k) *out++ = static_cast<float>(codes[k]) * scale + offset;
    } else {
      const int zero = w.zero_at(row, g);
      for (; k < end; ++k) *out++ = static_cast<float>(codes[k] - zero) * scale;
    }
  }
}

void dequantize(const QuantWeight& w, float* out) {
  parallel_chunks(w.rows, w.cols, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) dequantize_row(w, n, 0, w.cols, out + n * w.cols);
  });
}

}  // namespace awq
