// Error compensation: the factor of the inverse Gram matrix, tiles of rows, and keeping a row only where it
// improved.
#include "kernels/quant_compensate.h"

#include <Eigen/Dense>
#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/half.h"
#include "base/progress.h"
#include "base/system.h"
#include "base/thread_pool.h"
#include "kernels/quant_factor.h"
#include "kernels/quant_ops.h"

namespace awq {
namespace {

using namespace compensation;

struct Kernels {
  decltype(&portable::compensate_tile) compensate;
  decltype(&portable::normal_tile) normal;
};

Kernels pick() {
  switch (isa()) {
    case Isa::kPortable:
      break;
    case Isa::kAvx2:
      return {avx2::compensate_tile, avx2::normal_tile};
    case Isa::kAvx512:
    case Isa::kAvx512Bf16:
      return {avx512::compensate_tile, avx512::normal_tile};
  }
  return {portable::compensate_tile, portable::normal_tile};
}

// Most active channels first; equal ones in their order.
std::vector<int32_t> activation_order(const float* gram, int64_t k) {
  std::vector<int32_t> order(static_cast<size_t>(k));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return gram[a * k + a] > gram[b * k + b]; });
  return order;
}

float rounded(double x, DType dtype) {
  const auto value = static_cast<float>(x);
  return dtype == DType::kF16 ? round_to_fp16(value) : dtype == DType::kBF16 ? round_to_bf16(value) : value;
}

// The scales of one row that fit its codes best, all groups together: minimizes (w - sum s_g c_g) G (w - sum
// s_g c_g)'. A group that holds nothing but its zero point keeps its scale. False, and nothing changed, where
// the equations give no scale within a factor of two of the old one.
bool refit(const float* normal, int64_t lane, DType dtype, float* scale, int64_t groups) {
  Eigen::MatrixXd m(groups, groups);
  Eigen::VectorXd right(groups);
  for (int64_t g = 0; g < groups; ++g) {
    const float* row = normal + g * (groups + 1) * kLanes + lane;
    for (int64_t h = 0; h <= g; ++h) m(g, h) = row[h * kLanes];
    right(g) = row[groups * kLanes];
    if (!(m(g, g) > 0)) m(g, g) = 1, right(g) = scale[g * kLanes + lane];
  }
  const Eigen::LLT<Eigen::MatrixXd> llt(m);  // reads the lower triangle
  if (llt.info() != Eigen::Success) return false;
  const Eigen::VectorXd fit = llt.solve(right);
  for (int64_t g = 0; g < groups; ++g) {
    const double old = scale[g * kLanes + lane];
    if (!(fit(g) > old / 2 && fit(g) < old * 2)) return false;
  }
  for (int64_t g = 0; g < groups; ++g) scale[g * kLanes + lane] = rounded(fit(g), dtype);
  return true;
}

}  // namespace

struct Compensation::State {
  int64_t cols = 0;
  std::vector<int32_t> order;  // column i of gram and factor is column order[i] of the weights
  std::vector<float> gram, factor;
};

Compensation::Compensation(const float* g, int64_t cols, double damping) : state_(std::make_unique<State>()) {
  State& s = *state_;
  s.cols = cols;
  s.order = activation_order(g, cols);
  s.gram.resize(static_cast<size_t>(cols * cols));
  parallel_for(cols, [&](int64_t i) {
    const float* row = g + s.order[i] * cols;
    for (int64_t j = 0; j < cols; ++j) s.gram[i * cols + j] = row[s.order[j]];
  });
  double mean = 0;
  for (int64_t i = 0; i < cols; ++i) mean += g[i * cols + i];
  mean /= static_cast<double>(cols);
  for (double add = damping * mean; add > 0 && std::isfinite(add) && s.factor.empty(); add *= 10) {
    for (int64_t i = 0; i < cols; ++i)
      s.gram[i * cols + i] = static_cast<float>(g[s.order[i] * (cols + 1)] + add);
    s.factor.resize(s.gram.size());
    if (!inverse_factor(s.gram.data(), cols, s.factor.data())) s.factor.clear();
    if (add > mean) break;
  }
}
Compensation::~Compensation() = default;
Compensation::Compensation(Compensation&&) noexcept = default;

namespace {

// kLanes rows of a weight and their rounding, columns in the order of rounding.
class RowTile {
 public:
  RowTile(const std::vector<int32_t>& order, const float* w, QuantWeight& q, int64_t row0)
      : order_(order),
        q_(q),
        row0_(row0),
        lanes_(std::min<int64_t>(kLanes, q.rows - row0)),
        storage_(Tensor::zeros(DType::kF32, {4 * q.cols + 2 * q.groups(), kLanes})) {
    const int64_t cols = q.cols, groups = q.groups();
    float* at = storage_.f32();
    for (float** buffer : {&b.w, &b.codes, &b.work, &b.error}) *buffer = at, at += cols * kLanes;
    b.scale = at;
    b.zero = at + groups * kLanes;
    std::fill(b.scale, b.scale + groups * kLanes, 1.0f);
    for (int64_t lane = 0; lane < lanes_; ++lane) {
      const int64_t row = row0 + lane;
      for (int64_t i = 0; i < cols; ++i) {
        b.w[i * kLanes + lane] = w[row * cols + order[i]];
        b.codes[i * kLanes + lane] = q.codes[row * cols + order[i]];
      }
      for (int64_t g = 0; g < groups; ++g) {
        b.scale[g * kLanes + lane] = q.scales[row * groups + g];
        b.zero[g * kLanes + lane] = static_cast<float>(q.zero_at(row, g));
      }
    }
  }

  int64_t lanes() const { return lanes_; }

  void keep(int64_t lane) {
    const int64_t row = row0_ + lane, groups = q_.groups();
    for (int64_t i = 0; i < q_.cols; ++i)
      q_.codes[row * q_.cols + order_[i]] = static_cast<uint8_t>(b.codes[i * kLanes + lane]);
    for (int64_t g = 0; g < groups; ++g) q_.scales[row * groups + g] = b.scale[g * kLanes + lane];
  }

  TileBuffers b;

 private:
  const std::vector<int32_t>& order_;
  QuantWeight& q_;
  int64_t row0_, lanes_;
  Tensor storage_;
};

}  // namespace

void Compensation::improve(const float* w, int sweeps, int refits, QuantWeight& q) const {
  const State& s = *state_;
  if (s.factor.empty()) return;  // nothing was ever activated: any rounding is as good
  const int64_t cols = s.cols, groups = q.groups(), size = q.scheme.group_size(cols);
  std::vector<int32_t> group(static_cast<size_t>(cols)), member(group.size());
  for (int64_t i = 0; i < cols; ++i) group[i] = static_cast<int32_t>(s.order[i] / size);
  std::iota(member.begin(), member.end(), 0);
  std::stable_sort(member.begin(), member.end(), [&](int32_t a, int32_t b) { return group[a] < group[b]; });
  const Kernels kernels = pick();
  parallel_for((q.rows + kLanes - 1) / kLanes, [&](int64_t index) {
    check_cancelled();
    RowTile tile(s.order, w, q, index * kLanes);
    const Tensor normal(DType::kF32, {refits > 0 ? groups * (groups + 1) : 1, kLanes});
    auto* equations = const_cast<float*>(normal.f32());
    CompensateTile in{s.gram.data(), s.factor.data(),     group.data(), member.data(), cols,
                      size,          q.scheme.max_code(), sweeps};
    float best[kLanes], before[kLanes], after[kLanes];
    kernels.compensate(in, tile.b, best, after);
    for (int round = 0;; ++round) {
      for (int64_t lane = 0; lane < tile.lanes(); ++lane)
        if (after[lane] < best[lane]) best[lane] = after[lane], tile.keep(lane);
      if (round == refits) break;
      // Scales for the codes, then codes for the scales.
      kernels.normal(in, tile.b, equations);
      for (int64_t lane = 0; lane < tile.lanes(); ++lane)
        refit(equations, lane, q.scale_dtype, tile.b.scale, groups);
      in.factor = nullptr;
      kernels.compensate(in, tile.b, before, after);
    }
  });
}

}  // namespace awq
