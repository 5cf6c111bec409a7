#include "kernels/quant_factor.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "base/system.h"
#include "base/thread_pool.h"

namespace awq {
namespace {

struct Settings {
  Isa saved = isa();
  int threads_before = threads();
  ~Settings() {
    set_isa(saved);
    set_threads(threads_before);
  }
};

std::vector<float> positive_definite(int64_t k, uint32_t seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<double> normal;
  std::vector<double> x(static_cast<size_t>(2 * k * k));
  for (double& v : x) v = normal(rng);
  std::vector<float> h(static_cast<size_t>(k * k));
  for (int64_t i = 0; i < k; ++i)
    for (int64_t j = 0; j <= i; ++j) {
      double sum = i == j ? 0.5 : 0;
      for (int64_t t = 0; t < 2 * k; ++t) sum += x[t * k + i] * x[t * k + j];
      h[i * k + j] = h[j * k + i] = static_cast<float>(sum);
    }
  return h;
}

// The rows of `factor` are columns of U: h UᵀU must be the identity. Sizes around the edges of tiles and
// blocks.
TEST(InverseFactor, ItsSquareIsTheInverse) {
  const Settings settings;
  for (const Isa i : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512}) {
    if (i > settings.saved) continue;
    set_isa(i);
    for (const int64_t k : {1, 7, 16, 17, 127, 128, 129, 270}) {
      const std::vector<float> h = positive_definite(k, 3);
      std::vector<float> f(h.size());
      ASSERT_TRUE(inverse_factor(h.data(), k, f.data()));
      std::vector<double> inverse(h.size(), 0.0);  // UᵀU
      for (int64_t a = 0; a < k; ++a)
        for (int64_t b = 0; b < k; ++b)
          for (int64_t i2 = 0; i2 <= std::min(a, b); ++i2)
            inverse[a * k + b] += static_cast<double>(f[a * k + i2]) * f[b * k + i2];
      for (int64_t a = 0; a < k; ++a)
        for (int64_t b = 0; b < k; ++b) {
          double sum = 0;
          for (int64_t p = 0; p < k; ++p) sum += h[a * k + p] * inverse[p * k + b];
          ASSERT_NEAR(sum, a == b ? 1 : 0, 2e-4) << isa_name(i) << " " << k << ": " << a << ", " << b;
          if (b > a) {
            ASSERT_EQ(f[a * k + b], 0);
          }
        }
    }
  }
}

TEST(InverseFactor, RefusesWhatIsNotPositiveDefinite) {
  const int64_t k = 150;
  std::vector<float> h = positive_definite(k, 5), f(h.size());
  h[140 * k + 140] = -1;
  EXPECT_FALSE(inverse_factor(h.data(), k, f.data()));
  h[140 * k + 140] = NAN;
  EXPECT_FALSE(inverse_factor(h.data(), k, f.data()));
}

TEST(InverseFactor, SameBitsForAnyNumberOfThreads) {
  const Settings settings;
  const int64_t k = 400;
  const std::vector<float> h = positive_definite(k, 7);
  std::vector<float> first;
  for (const int n : {1, 2, 5}) {
    set_threads(n);
    std::vector<float> f(h.size());
    ASSERT_TRUE(inverse_factor(h.data(), k, f.data()));
    if (first.empty()) first = f;
    EXPECT_EQ(first, f) << n;
  }
}

}  // namespace
}  // namespace awq
