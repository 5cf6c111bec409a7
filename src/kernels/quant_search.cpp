// Choice of the instruction set, tiles over rows, and the scatter of results into a QuantWeight.
#include "kernels/quant_search.h"

#include <cstring>

#include "base/progress.h"
#include "base/system.h"
#include "base/thread_pool.h"
#include "kernels/quant_ops.h"

namespace awq {
namespace {

using namespace search;

struct Variant {
  decltype(&portable::search_range) range;
  decltype(&portable::minmax_error_row) error_row;
};

Variant pick() {
  switch (isa()) {
    case Isa::kPortable: return {portable::search_range, portable::minmax_error_row};
    case Isa::kAvx2: return {avx2::search_range, avx2::minmax_error_row};
    case Isa::kAvx512:
    case Isa::kAvx512Bf16: return {avx512::search_range, avx512::minmax_error_row};
  }
  return {portable::search_range, portable::minmax_error_row};
}

constexpr int64_t kTilesBetweenChecks = 64;  // some milliseconds: whoever stops a job waits no longer

void check_scheme(const Scheme& scheme, int64_t cols) {
  const int64_t group = scheme.group_size(cols);
  if (group <= 0 || cols % group != 0) fail(Code::kBadArgument, "group size {} does not divide {} inputs", group, cols);
  if (scheme.bits < 2 || scheme.bits > 8) fail(Code::kBadArgument, "bits: expected 2 to 8, got {}", scheme.bits);
}

struct Job {
  const float* w;
  int64_t rows, cols;
  const float* gram;  // [cols, cols] or null: then every group's block is zero
  RangeMode mode;
};

// Rows beyond the matrix are zero.
void gather(const Job& job, int64_t row0, int64_t col0, int64_t group, float* out) {
  std::memset(out, 0, static_cast<size_t>(group) * kLanes * sizeof(float));
  const int64_t lanes = std::min<int64_t>(kLanes, job.rows - row0);
  for (int64_t lane = 0; lane < lanes; ++lane) {
    const float* src = job.w + (row0 + lane) * job.cols + col0;
    for (int64_t i = 0; i < group; ++i) out[i * kLanes + lane] = src[i];
  }
}

void scatter(QuantWeight& q, int64_t row0, int64_t g, int64_t group, const float* scale, const uint8_t* zero, const uint8_t* codes) {
  const int64_t lanes = std::min<int64_t>(kLanes, q.rows - row0), groups = q.groups();
  for (int64_t lane = 0; lane < lanes; ++lane) {
    q.scales[(row0 + lane) * groups + g] = scale[lane];
    if (!q.zeros.empty()) q.zeros[(row0 + lane) * groups + g] = zero[lane];
    uint8_t* dst = q.codes.data() + (row0 + lane) * q.cols + g * group;
    for (int64_t i = 0; i < group; ++i) dst[i] = codes[i * kLanes + lane];
  }
}

QuantWeight search_all(const Job& job, const Scheme& scheme, DType scale_dtype) {
  check_scheme(scheme, job.cols);
  const int64_t group = scheme.group_size(job.cols);
  QuantWeight q;
  q.scheme = scheme;
  q.rows = job.rows;
  q.cols = job.cols;
  q.scale_dtype = scale_dtype;
  q.codes.resize(static_cast<size_t>(job.rows * job.cols));
  q.scales.resize(static_cast<size_t>(job.rows * q.groups()));
  if (scheme.zero == ZeroKind::kInteger) q.zeros.resize(q.scales.size());

  const auto run = pick().range;
  const std::vector<float> no_gram(job.gram ? 0 : static_cast<size_t>(group), 0.0f);
  const int64_t tiles = (job.rows + kLanes - 1) / kLanes;
  parallel_for(tiles * q.groups(), [&](int64_t task) {
    if (task % kTilesBetweenChecks == 0) check_cancelled();
    const int64_t row0 = task % tiles * kLanes, g = task / tiles;
    const Tensor buffer(DType::kF32, {3 * group, kLanes});
    auto* w = const_cast<float*>(buffer.f32());
    std::vector<uint8_t> codes(static_cast<size_t>(group * kLanes));
    float scale[kLanes];
    uint8_t zero[kLanes];
    gather(job, row0, g * group, group, w);
    RangeGroup in;
    in.w = w;
    in.block = job.gram ? job.gram + g * group * (job.cols + 1) : no_gram.data();
    in.ldb = job.gram ? job.cols : 0;
    in.group = static_cast<int>(group);
    in.max_code = scheme.max_code();
    in.symmetric = scheme.zero == ZeroKind::kNone;
    in.scale_dtype = scale_dtype;
    in.mode = job.mode;
    run(in, w + group * kLanes, {scale, zero, codes.data()});
    scatter(q, row0, g, group, scale, zero, codes.data());
  });
  return q;
}

}  // namespace

QuantWeight quantize_minmax(const float* w, int64_t rows, int64_t cols, const Scheme& scheme, DType scale_dtype) {
  return search_all({w, rows, cols, nullptr, RangeMode::kMinMax}, scheme, scale_dtype);
}

QuantWeight range_search(const float* w, int64_t rows, int64_t cols, const Scheme& scheme, DType scale_dtype, const float* g,
                         RangeEffort effort) {
  const RangeMode mode = effort == RangeEffort::kFull ? RangeMode::kFull : RangeMode::kAwqClip;
  return search_all({w, rows, cols, g, mode}, scheme, scale_dtype);
}

void minmax_error(const float* w, int64_t rows, int64_t cols, const Scheme& scheme, DType scale_dtype, const float* channel_scale,
                  float* e) {
  check_scheme(scheme, cols);
  const int64_t group = scheme.group_size(cols);
  std::vector<float> inverse(static_cast<size_t>(cols));
  for (int64_t k = 0; k < cols; ++k) inverse[k] = 1.0f / channel_scale[k];
  if (group % 16 != 0) {  // narrower than the row kernel's vectors
    std::vector<float> scaled(w, w + rows * cols);
    for (int64_t i = 0; i < rows * cols; ++i) scaled[i] *= channel_scale[i % cols];
    dequantize(quantize_minmax(scaled.data(), rows, cols, scheme, scale_dtype), e);
    for (int64_t i = 0; i < rows * cols; ++i) e[i] = w[i] - e[i] * inverse[i % cols];
    return;
  }
  const auto row = pick().error_row;
  constexpr int64_t kRows = 16;
  parallel_for((rows + kRows - 1) / kRows, [&](int64_t tile) {
    RangeGroup in;
    in.group = static_cast<int>(group);
    in.max_code = scheme.max_code();
    in.symmetric = scheme.zero == ZeroKind::kNone;
    in.scale_dtype = scale_dtype;
    for (int64_t n = tile * kRows; n < std::min(rows, (tile + 1) * kRows); ++n) {
      in.w = w + n * cols;
      row(in, cols, channel_scale, inverse.data(), e + n * cols);
    }
  });
}

}  // namespace awq
