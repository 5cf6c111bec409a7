#include "weights/quant_weight.h"

#include <cmath>

#include "base/half.h"

namespace awq {
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

void check_all_at_most(const std::vector<uint8_t>& values, int limit, const char* what) {
  for (size_t i = 0; i < values.size(); ++i)
    if (values[i] > limit)
      fail(Code::kInternal, "quantized weight: {} {} is {}, at most {} allowed", what, i, values[i], limit);
}

}  // namespace

std::string Scheme::text() const {
  return fmt::format("w{}g{}{}", bits, group < 0 ? "c" : std::to_string(group),
                     zero == ZeroKind::kInteger ? "z" : "");
}

void check_consistent(const QuantWeight& w) {
  const Scheme& s = w.scheme;
  if (s.bits < 2 || s.bits > 8) fail(Code::kInternal, "quantized weight: {} bits, expected 2 to 8", s.bits);
  if (w.rows < 1 || w.cols < 1)
    fail(Code::kInternal, "quantized weight: shape [{}, {}] is empty", w.rows, w.cols);
  if (s.group == 0 || s.group < -1 || w.cols % s.group_size(w.cols) != 0)
    fail(Code::kInternal, "quantized weight: group size {} does not divide {} columns", s.group, w.cols);

  const auto want_codes = static_cast<size_t>(w.rows * w.cols);
  const auto want_scales = static_cast<size_t>(w.rows * w.groups());
  const size_t want_zeros = s.zero == ZeroKind::kInteger ? want_scales : 0;
  if (w.codes.size() != want_codes || w.scales.size() != want_scales || w.zeros.size() != want_zeros)
    fail(Code::kInternal,
         "quantized weight {} [{}, {}]: expected {} codes, {} scales, {} zeros, got {}, {}, {}", s.text(),
         w.rows, w.cols, want_codes, want_scales, want_zeros, w.codes.size(), w.scales.size(),
         w.zeros.size());

  check_all_at_most(w.codes, s.max_code(), "code");
  check_all_at_most(w.zeros, s.max_code(), "zero point");
  for (size_t i = 0; i < w.scales.size(); ++i)
    if (!std::isfinite(w.scales[i]) || !representable(w.scales[i], w.scale_dtype))
      fail(Code::kInternal, "quantized weight: scale {} is {}, which {} cannot hold", i, w.scales[i],
           dtype_name(w.scale_dtype));
}

void dequantize(const QuantWeight& w, float* out) {
  const int64_t groups = w.groups();
  const int64_t size = w.scheme.group_size(w.cols);
  for (int64_t n = 0; n < w.rows; ++n) {
    for (int64_t g = 0; g < groups; ++g) {
      const float scale = w.scales[n * groups + g];
      const int zero = w.zero_at(n, g);
      const int64_t begin = n * w.cols + g * size;
      for (int64_t i = begin; i < begin + size; ++i) out[i] = static_cast<float>(w.codes[i] - zero) * scale;
    }
  }
}

}  // namespace awq
