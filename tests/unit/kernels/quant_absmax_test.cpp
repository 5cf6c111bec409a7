// Rounding by the largest weight, and groups no method may fall over: all zero, constant, of one sign, never
// activated.
#include <algorithm>
#include <cmath>

#include "kernel_testing.h"
#include "kernels/quant_ops.h"

namespace awq {
namespace {

using namespace testing;

constexpr Scheme kNf4{CodeKind::kNf4, 4, 64, ZeroKind::kNone};
constexpr Scheme kInt8{CodeKind::kAffine, 8, -1, ZeroKind::kNone};

std::vector<float> widened(const QuantWeight& q) {
  check_consistent(q);
  std::vector<float> out(q.codes.size());
  dequantize(q, out.data());
  return out;
}

TEST(QuantizeAbsmax, TheLargestWeightIsACodeAndTheRestIsNearest) {
  const auto w = random_floats(7 * 96, 3);
  const QuantWeight q = quantize_absmax(w.data(), 7, 96, kInt8, DType::kF32);
  const auto back = widened(q);
  for (int64_t n = 0; n < 7; ++n) {
    float largest = 0;
    for (int64_t k = 0; k < 96; ++k) largest = std::max(largest, std::fabs(w[n * 96 + k]));
    EXPECT_EQ(q.scales[n], largest / 127);
    for (int64_t k = 0; k < 96; ++k) {
      EXPECT_LE(std::fabs(back[n * 96 + k] - w[n * 96 + k]), 0.5001f * q.scales[n]);
      EXPECT_GE(q.codes[n * 96 + k], 1);  // -127, never -128
    }
  }
}

TEST(QuantizeNf4, EveryCodeIsTheNearestOfTheTable) {
  const auto w = random_floats(5 * 128, 4);
  const QuantWeight q = quantize_nf4(w.data(), 5, 128, kNf4);
  check_consistent(q);
  for (size_t i = 0; i < w.size(); ++i) {
    const float scale = q.scales[i / 64];
    int nearest = 0;
    for (int c = 1; c < kNf4Codes; ++c)
      if (std::fabs(w[i] - kNf4Values[c] * scale) < std::fabs(w[i] - kNf4Values[nearest] * scale))
        nearest = c;
    EXPECT_NEAR(kNf4Values[q.codes[i]] * scale, kNf4Values[nearest] * scale, 1e-6f * scale) << i;
  }
}

TEST(Rounding, DegenerateGroupsStayFiniteAndClose) {
  const int64_t rows = 3, cols = 128;
  const auto noise = random_floats(rows * cols, 9, 0.02f);
  const struct {
    const char* what;
    float (*value)(float);
    double most;  // largest error over the largest weight; half a symmetric step of 4 bits is 0.067
  } cases[] = {{"zero", [](float) { return 0.0f; }, 0},
               {"constant", [](float) { return 0.3f; }, 0.07},
               {"constant below zero", [](float) { return -0.3f; }, 0.07},
               {"positive", [](float v) { return 0.5f + std::fabs(v); }, 0.15},
               {"negative", [](float v) { return -0.5f - std::fabs(v); }, 0.15},
               {"far below fp16's smallest scale", [](float v) { return v * 1e-9f; }, 1.0001}};
  for (const auto& c : cases) {
    std::vector<float> w(noise.size());
    std::transform(noise.begin(), noise.end(), w.begin(), c.value);
    float largest = 0;
    for (const float v : w) largest = std::max(largest, std::fabs(v));
    std::vector<float> gram(static_cast<size_t>(cols * cols), 0.0f);
    for (const bool activated : {true, false}) {
      for (int64_t k = 0; activated && k < cols; ++k) gram[k * cols + k] = 1.0f;
      for (const ZeroKind zero : {ZeroKind::kInteger, ZeroKind::kNone}) {
        const Scheme w4{CodeKind::kAffine, 4, 64, zero};
        SCOPED_TRACE(fmt::format("{} {} {}", c.what, w4.text(), activated ? "activated" : "never activated"));
        std::vector<QuantWeight> all = {
            quantize_minmax(w.data(), rows, cols, w4, DType::kF16),
            range_search(w.data(), rows, cols, w4, DType::kF16, gram.data(), RangeEffort::kFull),
            quantize_nf4(w.data(), rows, cols, kNf4),
            quantize_absmax(w.data(), rows, cols, kInt8, DType::kF16)};
        all.push_back(all.front());
        Compensation(gram.data(), cols, 0.01).improve(w.data(), 2, 0, all.back());
        for (const QuantWeight& q : all) {
          const auto back = widened(q);
          for (size_t i = 0; i < back.size(); ++i) {
            ASSERT_TRUE(std::isfinite(back[i]));
            if (!activated) continue;
            ASSERT_LE(std::fabs(back[i] - w[i]), c.most * largest + 1e-12) << q.scheme.text();
          }
        }
      }
    }
  }
}

TEST(QuantizeAbsmax, TheSameBitsForAnyThreads) {
  const auto w = random_floats(70 * 128, 5);
  same_for_any_threads([&] { return quantize_nf4(w.data(), 70, 128, kNf4).codes; });
  same_for_any_threads([&] { return quantize_absmax(w.data(), 70, 128, kInt8, DType::kF16).codes; });
}

TEST(QuantizeAbsmax, RefusesAGroupThatDoesNotDivide) {
  const std::vector<float> w(96);
  EXPECT_THROW(quantize_nf4(w.data(), 1, 96, kNf4), Error);
}

}  // namespace
}  // namespace awq
