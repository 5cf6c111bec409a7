// Rounding that needs no search: the largest weight of a group sets its scale.
#include <algorithm>
#include <array>
#include <cmath>

#include "base/progress.h"
#include "base/thread_pool.h"
#include "kernels/quant_ops.h"
#include "kernels/quant_search.h"

namespace awq {
namespace {

constexpr int64_t kRows = 16;  // rows of a task

// round_group(w, group, codes) returns the scale.
template <class RoundGroup>
QuantWeight round_groups(const float* w, int64_t rows, int64_t cols, const Scheme& scheme, DType scale_dtype, const RoundGroup& round_group) {
  const int64_t group = scheme.group_size(cols);
  if (group <= 0 || cols % group != 0) fail(Code::kBadArgument, "group size {} does not divide {} inputs", group, cols);
  QuantWeight q;
  q.scheme = scheme;
  q.rows = rows;
  q.cols = cols;
  q.scale_dtype = scale_dtype;
  q.codes.resize(static_cast<size_t>(rows * cols));
  q.scales.resize(static_cast<size_t>(rows * q.groups()));
  parallel_for((rows + kRows - 1) / kRows, [&](int64_t task) {
    check_cancelled();
    for (int64_t n = task * kRows; n < std::min(rows, (task + 1) * kRows); ++n)
      for (int64_t g = 0; g < q.groups(); ++g) {
        const int64_t at = n * cols + g * group;
        q.scales[n * q.groups() + g] = round_group(w + at, group, q.codes.data() + at);
      }
  });
  return q;
}

float largest_of(const float* w, int64_t n) {
  float largest = 0;
  for (int64_t i = 0; i < n; ++i) largest = std::max(largest, std::fabs(w[i]));
  return largest;
}

}  // namespace

QuantWeight quantize_absmax(const float* w, int64_t rows, int64_t cols, const Scheme& scheme, DType scale_dtype) {
  check_internal(scheme.code == CodeKind::kAffine && scheme.zero == ZeroKind::kNone, "quantize_absmax: expected a symmetric scheme");
  const int middle = 1 << (scheme.bits - 1);
  const auto top = static_cast<float>(middle - 1);
  return round_groups(w, rows, cols, scheme, scale_dtype, [&](const float* x, int64_t n, uint8_t* codes) {
    // The floor keeps scales above zero: groups of zeros are codes of zero.
    const float scale = search::round_scale_to(std::max(largest_of(x, n), search::kMinRange) / top, scale_dtype);
    for (int64_t i = 0; i < n; ++i)
      codes[i] = static_cast<uint8_t>(static_cast<int>(std::nearbyint(std::clamp(x[i] / scale, -top, top))) + middle);
    return scale;
  });
}

QuantWeight quantize_nf4(const float* w, int64_t rows, int64_t cols, const Scheme& scheme) {
  check_internal(scheme.code == CodeKind::kNf4, "quantize_nf4: expected an nf4 scheme");
  std::array<float, kNf4Codes - 1> middles;
  for (int c = 0; c + 1 < kNf4Codes; ++c) middles[c] = (kNf4Values[c] + kNf4Values[c + 1]) / 2;
  return round_groups(w, rows, cols, scheme, DType::kF32, [&](const float* x, int64_t n, uint8_t* codes) {
    const float scale = largest_of(x, n), inverse = scale > 0 ? 1 / scale : 0.0f;
    for (int64_t i = 0; i < n; ++i)
      codes[i] = static_cast<uint8_t>(std::lower_bound(middles.begin(), middles.end(), x[i] * inverse) - middles.begin());
    return scale;
  });
}

}  // namespace awq
