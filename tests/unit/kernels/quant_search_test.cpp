#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "base/half.h"
#include "base/system.h"
#include "base/thread_pool.h"
#include "kernels/quant_ops.h"

namespace awq {
namespace {

struct Problem {
  int64_t rows, cols;
  std::vector<float> w, gram;
};

Problem make(int64_t rows, int64_t cols, uint32_t seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal;
  Problem p{rows, cols, std::vector<float>(static_cast<size_t>(rows * cols)), std::vector<float>(static_cast<size_t>(cols * cols))};
  for (float& v : p.w) v = normal(rng) * (rng() % 29 == 0 ? 6.0f : 1.0f);
  std::vector<float> x(static_cast<size_t>(200 * cols));
  for (size_t i = 0; i < x.size(); ++i) x[i] = normal(rng) * (i % 7 == 0 ? 5.0f : 1.0f) + (i % 5 == 0 ? 1.0f : 0.0f);
  gram_accumulate(x.data(), cols, 200, cols, p.gram.data(), false);
  return p;
}

std::vector<Isa> isas() {
  std::vector<Isa> out;
  const Isa best = isa();
  for (Isa i : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512})
    if (i <= best) out.push_back(i);
  return out;
}

struct IsaGuard {
  Isa saved = isa();
  ~IsaGuard() { set_isa(saved); }
};

// Σ over rows and groups of e B eᵀ, in double, of the dequantized weights.
std::vector<double> block_losses(const Problem& p, const QuantWeight& q) {
  std::vector<float> d(p.w.size());
  dequantize(q, d.data());
  const int64_t g = q.scheme.group_size(p.cols);
  std::vector<double> out;
  for (int64_t r = 0; r < p.rows; ++r)
    for (int64_t c = 0; c < p.cols; c += g) {
      double loss = 0;
      for (int64_t i = c; i < c + g; ++i)
        for (int64_t j = c; j < c + g; ++j)
          loss += (static_cast<double>(p.w[r * p.cols + i]) - d[r * p.cols + i]) * p.gram[i * p.cols + j] *
                  (static_cast<double>(p.w[r * p.cols + j]) - d[r * p.cols + j]);
      out.push_back(loss);
    }
  return out;
}

TEST(RangeSearch, EveryGroupIsNeverWorseWithMoreEffort) {
  const IsaGuard guard;
  for (const Isa i : isas())
    for (const int bits : {2, 3, 4, 8})
      for (const int group : {16, 32, 64, 20})
        for (const ZeroKind zero : {ZeroKind::kInteger, ZeroKind::kNone}) {
          set_isa(i);
          const int64_t cols = group == 20 ? 60 : 128;
          const Problem p = make(37, cols, 11);
          const Scheme scheme{CodeKind::kAffine, bits, group, zero};
          const auto minmax = block_losses(p, quantize_minmax(p.w.data(), p.rows, cols, scheme, DType::kF16));
          const auto clip = block_losses(p, range_search(p.w.data(), p.rows, cols, scheme, DType::kF16, p.gram.data(), RangeEffort::kAwqClip));
          const QuantWeight q = range_search(p.w.data(), p.rows, cols, scheme, DType::kF16, p.gram.data(), RangeEffort::kFull);
          check_consistent(q);
          const auto full = block_losses(p, q);
          double sum_minmax = 0, sum_full = 0;
          for (size_t n = 0; n < full.size(); ++n) {
            // The search adds in float: equal candidates may differ in the last digits of the double sum.
            ASSERT_LE(clip[n], minmax[n] * (1 + 1e-4) + 1e-6);
            ASSERT_LE(full[n], clip[n] * (1 + 1e-4) + 1e-6);
            sum_minmax += minmax[n];
            sum_full += full[n];
          }
          if (bits < 8) {
            EXPECT_LT(sum_full, 0.9 * sum_minmax) << scheme.text() << " " << isa_name(i);
          }
        }
}

TEST(RangeSearch, InstructionSetsAgreeInLoss) {
  const IsaGuard guard;
  const Problem p = make(64, 128, 5);
  const Scheme scheme{CodeKind::kAffine, 4, 32, ZeroKind::kInteger};
  double first = 0;
  for (const Isa i : isas()) {
    set_isa(i);
    double sum = 0;
    for (double l : block_losses(p, range_search(p.w.data(), p.rows, p.cols, scheme, DType::kF16, p.gram.data(), RangeEffort::kFull)))
      sum += l;
    if (first == 0) first = sum;
    EXPECT_NEAR(sum, first, 1e-3 * first) << isa_name(i);
  }
}

TEST(RangeSearch, SameBitsForAnyNumberOfThreads) {
  const Problem p = make(150, 128, 3);
  const Scheme scheme{CodeKind::kAffine, 3, 64, ZeroKind::kInteger};
  const int before = threads();
  set_threads(1);
  const QuantWeight one = range_search(p.w.data(), p.rows, p.cols, scheme, DType::kBF16, p.gram.data(), RangeEffort::kFull);
  for (const int n : {2, 5}) {
    set_threads(n);
    const QuantWeight many = range_search(p.w.data(), p.rows, p.cols, scheme, DType::kBF16, p.gram.data(), RangeEffort::kFull);
    EXPECT_EQ(one.codes, many.codes);
    EXPECT_EQ(one.scales, many.scales);
    EXPECT_EQ(one.zeros, many.zeros);
  }
  set_threads(before);
}

TEST(MinMax, FollowsTheDocumentedArithmetic) {
  const Problem p = make(5, 64, 9);
  const Scheme scheme{CodeKind::kAffine, 4, 32, ZeroKind::kInteger};
  const QuantWeight q = quantize_minmax(p.w.data(), p.rows, p.cols, scheme, DType::kF16);
  for (int64_t r = 0; r < p.rows; ++r)
    for (int64_t g = 0; g < 2; ++g) {
      float lo = 0, hi = 0;
      for (int64_t i = 0; i < 32; ++i) {
        lo = std::min(lo, p.w[r * 64 + g * 32 + i]);
        hi = std::max(hi, p.w[r * 64 + g * 32 + i]);
      }
      const float s = round_to_fp16((hi - lo) / 15.0f);
      ASSERT_EQ(q.scales[r * 2 + g], s);
      ASSERT_EQ(q.zeros[r * 2 + g], std::nearbyint(-lo / s));
      for (int64_t i = 0; i < 32; ++i) {
        const float w = p.w[r * 64 + g * 32 + i];
        const float back = (static_cast<float>(q.codes[r * 64 + g * 32 + i]) - q.zeros[r * 2 + g]) * s;
        ASSERT_LE(std::fabs(back - w), 1.01f * s);  // half a step inside the range, one at its rounded ends
      }
    }
}

TEST(MinMax, GroupsOfOneSignKeepTheirRange) {
  // AutoAWQ does not force the range through zero and loses such groups; docs: quality of positive groups.
  std::vector<float> w(64);
  for (size_t i = 0; i < w.size(); ++i) w[i] = 0.5f + 0.5f * static_cast<float>(i) / 64;
  const Scheme scheme{CodeKind::kAffine, 4, 64, ZeroKind::kInteger};
  const QuantWeight q = quantize_minmax(w.data(), 1, 64, scheme, DType::kF16);
  std::vector<float> d(64);
  dequantize(q, d.data());
  for (size_t i = 0; i < w.size(); ++i) EXPECT_NEAR(d[i], w[i], 1.0f / 15 / 2 + 1e-3f);
}

TEST(MinMaxError, EqualsQuantizingTheScaledWeights) {
  const IsaGuard guard;
  for (const Isa i : isas())
    for (const int group : {32, 20, -1}) {
      set_isa(i);
      const int64_t cols = group == 20 ? 60 : 128;
      const Problem p = make(9, cols, 21);
      std::vector<float> c(static_cast<size_t>(cols)), scaled(p.w), e(p.w.size()), d(p.w.size());
      for (int64_t k = 0; k < cols; ++k) c[k] = 0.25f + 0.01f * static_cast<float>(k);
      for (size_t n = 0; n < scaled.size(); ++n) scaled[n] *= c[n % cols];
      const Scheme scheme{CodeKind::kAffine, 4, group, ZeroKind::kInteger};
      minmax_error(p.w.data(), p.rows, cols, scheme, DType::kF16, c.data(), e.data());
      dequantize(quantize_minmax(scaled.data(), p.rows, cols, scheme, DType::kF16), d.data());
      int different = 0;  // a value on the border of two codes may fall either way
      for (size_t n = 0; n < e.size(); ++n) different += std::fabs(e[n] - (p.w[n] - d[n] / c[n % cols])) > 1e-4f;
      EXPECT_LE(different, 2) << group << " " << isa_name(i);
    }
}

TEST(QuantOps, RefuseImpossibleSchemes) {
  const Problem p = make(4, 60, 1);
  const Scheme bad{CodeKind::kAffine, 4, 32, ZeroKind::kInteger};
  try {
    quantize_minmax(p.w.data(), 4, 60, bad, DType::kF16);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), Code::kBadArgument);
    EXPECT_STREQ(e.what(), "group size 32 does not divide 60 inputs");
  }
}

}  // namespace
}  // namespace awq
