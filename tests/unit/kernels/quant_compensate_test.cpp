#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "base/half.h"
#include "base/system.h"
#include "base/thread_pool.h"
#include "kernels/quant_ops.h"

namespace awq {
namespace {

constexpr double kDamping = 0.01;

struct Problem {
  int64_t rows, cols;
  std::vector<float> w, gram;
};

// Correlated inputs: compensation lives on correlations.
Problem correlated(int64_t rows, int64_t cols, uint32_t seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal;
  Problem p{rows, cols, std::vector<float>(static_cast<size_t>(rows * cols)),
            std::vector<float>(static_cast<size_t>(cols * cols))};
  for (float& v : p.w) v = normal(rng);
  std::vector<float> x(static_cast<size_t>(300 * cols));
  for (int64_t t = 0; t < 300; ++t) {
    float common = normal(rng);
    for (int64_t k = 0; k < cols; ++k)
      x[t * cols + k] = common * static_cast<float>(1 + k % 3) + normal(rng) * 0.7f;
  }
  gram_accumulate(x.data(), cols, 300, cols, p.gram.data(), false);
  return p;
}

std::vector<double> row_losses(const Problem& p, const QuantWeight& q, double damping) {
  std::vector<float> d(p.w.size());
  dequantize(q, d.data());
  double mean = 0;
  for (int64_t k = 0; k < p.cols; ++k) mean += p.gram[k * p.cols + k] / static_cast<double>(p.cols);
  std::vector<double> out(static_cast<size_t>(p.rows), 0.0);
  for (int64_t r = 0; r < p.rows; ++r)
    for (int64_t i = 0; i < p.cols; ++i)
      for (int64_t j = 0; j < p.cols; ++j) {
        const double g = p.gram[i * p.cols + j] + (i == j ? damping * mean : 0);
        out[r] += (static_cast<double>(p.w[r * p.cols + i]) - d[r * p.cols + i]) * g *
                  (static_cast<double>(p.w[r * p.cols + j]) - d[r * p.cols + j]);
      }
  return out;
}

struct IsaGuard {
  Isa saved = isa();
  ~IsaGuard() { set_isa(saved); }
};

TEST(Compensation, EveryRowIsNeverWorseAndTheSumFarBetter) {
  const IsaGuard guard;
  for (const Isa i : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512})
    for (const int bits : {3, 4})
      for (const ZeroKind zero : {ZeroKind::kInteger, ZeroKind::kNone}) {
        if (i > guard.saved) continue;
        set_isa(i);
        const Problem p = correlated(37, 96, 4);
        const Scheme scheme{CodeKind::kAffine, bits, 32, zero};
        QuantWeight q = quantize_minmax(p.w.data(), p.rows, p.cols, scheme, DType::kF16);
        const auto before = row_losses(p, q, kDamping);
        const QuantWeight start = q;
        Compensation(p.gram.data(), p.cols, kDamping).improve(p.w.data(), 2, 0, q);
        check_consistent(q);
        EXPECT_EQ(q.scales, start.scales);
        EXPECT_EQ(q.zeros, start.zeros);
        const auto after = row_losses(p, q, kDamping);
        double sum_before = 0, sum_after = 0;
        for (size_t r = 0; r < before.size(); ++r) {
          ASSERT_LE(after[r], before[r] * (1 + 1e-4)) << "row " << r;
          sum_before += before[r];
          sum_after += after[r];
        }
        EXPECT_LT(sum_after, 0.5 * sum_before) << scheme.text() << " " << isa_name(i);
      }
}

// After enough sweeps no single code can be changed for the better: a property of the result, not of the
// method.
TEST(Compensation, EndsWhereNoSingleCodeChangeHelps) {
  const Problem p = correlated(8, 64, 9);
  const Scheme scheme{CodeKind::kAffine, 4, 32, ZeroKind::kInteger};
  QuantWeight q = quantize_minmax(p.w.data(), p.rows, p.cols, scheme, DType::kF16);
  Compensation(p.gram.data(), p.cols, kDamping).improve(p.w.data(), 50, 0, q);
  const auto best = row_losses(p, q, kDamping);
  for (int64_t r = 0; r < p.rows; ++r)
    for (int64_t k = 0; k < p.cols; k += 5)
      for (const int change : {-1, 1}) {
        QuantWeight other = q;
        uint8_t& code = other.codes[r * p.cols + k];
        if (code + change < 0 || code + change > 15) continue;
        code = static_cast<uint8_t>(code + change);
        ASSERT_GE(row_losses(p, other, kDamping)[r], best[r] * (1 - 1e-5)) << r << " " << k;
      }
}

TEST(Compensation, FittedScalesAreBetterAndNeverWorse) {
  const IsaGuard guard;
  for (const Isa i : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512})
    for (const int bits : {3, 4})
      for (const ZeroKind zero : {ZeroKind::kInteger, ZeroKind::kNone}) {
        if (i > guard.saved) continue;
        set_isa(i);
        const Problem p = correlated(37, 96, 4);
        const Scheme scheme{CodeKind::kAffine, bits, 32, zero};
        QuantWeight fixed = quantize_minmax(p.w.data(), p.rows, p.cols, scheme, DType::kF16), fitted = fixed;
        const Compensation compensation(p.gram.data(), p.cols, kDamping);
        compensation.improve(p.w.data(), 2, 0, fixed);
        compensation.improve(p.w.data(), 2, 2, fitted);
        check_consistent(fitted);
        EXPECT_EQ(fitted.zeros, fixed.zeros);
        for (const float s : fitted.scales) ASSERT_EQ(s, round_to_fp16(s));
        const auto before = row_losses(p, fixed, kDamping), after = row_losses(p, fitted, kDamping);
        double sum_before = 0, sum_after = 0;
        for (size_t r = 0; r < before.size(); ++r) {
          ASSERT_LE(after[r], before[r] * (1 + 1e-4)) << "row " << r;
          sum_before += before[r];
          sum_after += after[r];
        }
        EXPECT_LT(sum_after, 0.98 * sum_before) << scheme.text() << " " << isa_name(i);
      }
}

// With the codes of exact multiples of other scales than the given ones, the fit finds those scales.
TEST(Compensation, FindsTheScalesThatWereUsed) {
  Problem p = correlated(40, 96, 6);
  QuantWeight truth{
      Scheme{CodeKind::kAffine, 4, 32, ZeroKind::kInteger}, p.rows, p.cols, {}, {}, {}, DType::kF16};
  std::mt19937 rng(5);
  truth.codes.resize(static_cast<size_t>(p.rows * p.cols));
  for (uint8_t& c : truth.codes) c = static_cast<uint8_t>(rng() % 16);
  truth.zeros.assign(static_cast<size_t>(p.rows * 3), 7);
  for (int64_t i = 0; i < p.rows * 3; ++i)
    truth.scales.push_back(round_to_fp16(0.5f + static_cast<float>(rng() % 100) / 200.0f));
  dequantize(truth, p.w.data());
  QuantWeight q = truth;
  for (float& s : q.scales) s = round_to_fp16(s * 1.002f);
  Compensation(p.gram.data(), p.cols, kDamping).improve(p.w.data(), 2, 4, q);
  int found = 0;
  for (size_t i = 0; i < q.scales.size(); ++i) found += std::fabs(q.scales[i] / truth.scales[i] - 1) < 6e-4f;
  EXPECT_GT(found, static_cast<int>(q.scales.size()) * 8 / 10);
}

TEST(Compensation, DegenerateGramMatricesLeaveFiniteCodes) {
  const Problem p = correlated(5, 64, 2);
  const Scheme scheme{CodeKind::kAffine, 4, 32, ZeroKind::kInteger};
  for (const int kind : {0, 1, 2}) {
    std::vector<float> gram(p.gram.size(), 0.0f);              // 0: never activated
    if (kind == 1) std::fill(gram.begin(), gram.end(), 1.0f);  // rank one
    if (kind == 2)
      for (int64_t k = 0; k < 64; k += 2) gram[k * 64 + k] = 1e6f;  // every second channel dead
    QuantWeight q = quantize_minmax(p.w.data(), p.rows, p.cols, scheme, DType::kF16);
    Compensation(gram.data(), p.cols, kDamping).improve(p.w.data(), 2, 2, q);
    check_consistent(q);
  }
}

TEST(Compensation, SameBitsForAnyNumberOfThreads) {
  const Problem p = correlated(130, 96, 3);
  const Scheme scheme{CodeKind::kAffine, 4, 32, ZeroKind::kInteger};
  const Compensation compensation(p.gram.data(), p.cols, kDamping);
  const int before = threads();
  std::vector<uint8_t> first;
  for (const int n : {1, 2, 5}) {
    set_threads(n);
    QuantWeight q = quantize_minmax(p.w.data(), p.rows, p.cols, scheme, DType::kF16);
    compensation.improve(p.w.data(), 2, 2, q);
    if (first.empty()) first = q.codes;
    EXPECT_EQ(first, q.codes) << n;
  }
  set_threads(before);
}

}  // namespace
}  // namespace awq
