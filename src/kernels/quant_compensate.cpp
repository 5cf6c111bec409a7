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
std::vector<int32_t> activation_order(const std::vector<float>& gram, int64_t k) {
  std::vector<int32_t> order(static_cast<size_t>(k));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return gram[a * k + a] > gram[b * k + b]; });
  return order;
}

// U, upper, with UᵀU = H⁻¹ for H = gram in the given order: H = R Rᵀ with R upper (the Cholesky factor of H
// read backwards), U = R⁻¹. False when H is not positive definite in double precision.
bool inverse_factor(const std::vector<float>& gram, const std::vector<int32_t>& order,
                    std::vector<float>& factor) {
  const int64_t k = static_cast<int64_t>(order.size());
  Eigen::MatrixXd h(k, k);
  for (int64_t i = 0; i < k; ++i)
    for (int64_t j = 0; j < k; ++j)
      h(i, j) = gram[static_cast<int64_t>(order[k - 1 - i]) * k + order[k - 1 - j]];
  const Eigen::LLT<Eigen::MatrixXd> llt(h);
  if (llt.info() != Eigen::Success) return false;
  h = llt.matrixL().solve(Eigen::MatrixXd::Identity(k, k));
  factor.resize(static_cast<size_t>(k * k));
  for (int64_t i = 0; i < k; ++i)
    for (int64_t j = 0; j < k; ++j) {
      const double u = h(k - 1 - i, k - 1 - j);
      if (!std::isfinite(u)) return false;
      factor[i * k + j] = j >= i ? static_cast<float>(u) : 0.0f;
    }
  return true;
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
  std::vector<float> gram, factor;
  std::vector<int32_t> order;
};

Compensation::Compensation(const float* g, int64_t cols, double damping) : state_(std::make_unique<State>()) {
  State& s = *state_;
  s.cols = cols;
  s.gram.assign(g, g + cols * cols);
  double mean = 0;
  for (int64_t i = 0; i < cols; ++i) mean += s.gram[i * cols + i];
  mean /= static_cast<double>(cols);
  s.order = activation_order(s.gram, cols);
  for (double add = damping * mean; add > 0 && std::isfinite(add) && s.factor.empty(); add *= 10) {
    for (int64_t i = 0; i < cols; ++i) s.gram[i * cols + i] = static_cast<float>(g[i * cols + i] + add);
    if (!inverse_factor(s.gram, s.order, s.factor)) s.factor.clear();
    if (add > mean) break;
  }
}
Compensation::~Compensation() = default;
Compensation::Compensation(Compensation&&) noexcept = default;

void Compensation::improve(const float* w, int sweeps, int refits, QuantWeight& q) const {
  const State& s = *state_;
  if (s.factor.empty()) return;  // nothing was ever activated: any rounding is as good
  const int64_t cols = s.cols, groups = q.groups();
  const Kernels kernels = pick();
  parallel_for((q.rows + kLanes - 1) / kLanes, [&](int64_t tile) {
    check_cancelled();
    const int64_t row0 = tile * kLanes, lanes = std::min<int64_t>(kLanes, q.rows - row0);
    const int64_t equations = refits > 0 ? groups * (groups + 1) : 0;
    Tensor buffer = Tensor::zeros(DType::kF32, {3 * cols + 2 * groups + equations, kLanes});
    float* tw = buffer.f32();
    float *codes = tw + cols * kLanes, *work = codes + cols * kLanes, *scale = work + cols * kLanes,
          *zero = scale + groups * kLanes;
    float* normal = zero + groups * kLanes;
    std::fill(scale, scale + groups * kLanes, 1.0f);
    for (int64_t lane = 0; lane < lanes; ++lane) {
      const int64_t row = row0 + lane;
      for (int64_t i = 0; i < cols; ++i) {
        tw[i * kLanes + lane] = w[row * cols + i];
        codes[i * kLanes + lane] = q.codes[row * cols + i];
      }
      for (int64_t g = 0; g < groups; ++g) {
        scale[g * kLanes + lane] = q.scales[row * groups + g];
        zero[g * kLanes + lane] = static_cast<float>(q.zero_at(row, g));
      }
    }
    CompensateTile in;
    in.gram = s.gram.data();
    in.factor = s.factor.data();
    in.order = s.order.data();
    in.cols = cols;
    in.group = q.scheme.group_size(cols);
    in.max_code = q.scheme.max_code();
    in.sweeps = sweeps;
    float best[kLanes], before[kLanes], after[kLanes];
    kernels.compensate(in, tw, scale, zero, codes, work, best, after);
    for (int round = 0;; ++round) {
      for (int64_t lane = 0; lane < lanes; ++lane) {
        if (!(after[lane] < best[lane])) continue;
        best[lane] = after[lane];
        const int64_t row = row0 + lane;
        for (int64_t i = 0; i < cols; ++i)
          q.codes[row * cols + i] = static_cast<uint8_t>(codes[i * kLanes + lane]);
        for (int64_t g = 0; g < groups; ++g) q.scales[row * groups + g] = scale[g * kLanes + lane];
      }
      if (round == refits) break;
      // Scales for the codes, then codes for the scales.
      kernels.normal(in, tw, zero, codes, work, normal);
      for (int64_t lane = 0; lane < lanes; ++lane) refit(normal, lane, q.scale_dtype, scale, groups);
      in.factor = nullptr;
      kernels.compensate(in, tw, scale, zero, codes, work, before, after);
    }
  });
}

}  // namespace awq
