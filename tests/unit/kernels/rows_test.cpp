// Row-wise operations against plain loops in double, on every instruction-set path.
#include <fmt/core.h>

#include <limits>

#include "kernel_testing.h"
#include "kernels/cpu/simd_table.h"
#include "kernels/ops.h"
#include "kernels/reference.h"

namespace awq {
namespace {

using namespace testing;

constexpr int64_t kTokens[] = {0, 1, 2, 7, 33};
constexpr int64_t kDims[] = {1, 3, 16, 29, 64, 577};

// Distance in units in the last place of the reference.
double ulps(float got, double want) {
  const float nearest = static_cast<float>(want);
  const double unit =
      std::max(std::ldexp(1.0, std::ilogb(std::max(std::abs(nearest), 1e-37f)) - 23), 1.4e-45);
  return std::abs(double{got} - want) / unit;
}

TEST(Exp, IsWithinTwoUnitsInTheLastPlace) {
  std::vector<float> x;
  for (float v = -103.9f; v < 88.7f; v += 0.00137f) x.push_back(v);
  on_every_isa([&] {
    std::vector<float> y(x.size());
    simd::table().exp(x.data(), y.data(), static_cast<int64_t>(x.size()));
    double worst = 0;
    for (size_t i = 0; i < x.size(); ++i) worst = std::max(worst, ulps(y[i], std::exp(double{x[i]})));
    EXPECT_LE(worst, 2.0);
  });
}

TEST(Exp, HandlesTheEndsOfTheRange) {
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<float> x = {-inf, -1e30f, -105.0f, 0.0f, -0.0f, 1e-40f, 89.0f, 1e30f, inf, std::nanf("")};
  on_every_isa([&] {
    std::vector<float> y(x.size());
    simd::table().exp(x.data(), y.data(), static_cast<int64_t>(x.size()));
    for (int i : {0, 1, 2}) EXPECT_EQ(y[i], 0.0f) << x[i];
    for (int i : {3, 4, 5}) EXPECT_EQ(y[i], 1.0f) << x[i];
    for (int i : {6, 7, 8}) EXPECT_EQ(y[i], inf) << x[i];
    EXPECT_TRUE(std::isnan(y[9]));
  });
}

TEST(HalfConversions, EqualThePortableOnesForAllKindsOfValues) {
  std::vector<float> x = random_floats(1000, 1, 100.0f);
  for (const float v :
       {0.0f, -0.0f, 1e-40f, -1e-41f, 1e-8f, 6e-8f, 3e-5f, 6.1e-5f, 65504.0f, 65519.0f, 65520.0f, 1e38f,
        3.4e38f, std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity()})
    x.push_back(v);
  const int64_t n = static_cast<int64_t>(x.size());
  on_every_isa([&] {
    for (const DType dtype : {DType::kF16, DType::kBF16}) {
      const int elem = dtype == DType::kF16 ? 1 : 2;
      std::vector<uint16_t> want(x.size()), got(x.size());
      convert_from_f32(x.data(), dtype, reinterpret_cast<std::byte*>(want.data()), n);
      simd::table().from_f32[elem](x.data(), got.data(), n);
      EXPECT_EQ(got, want) << dtype_name(dtype);
      std::vector<float> back(x.size()), want_back(x.size());
      convert_to_f32(dtype, reinterpret_cast<const std::byte*>(want.data()), want_back.data(), n);
      simd::table().to_f32[elem](want.data(), back.data(), n);
      EXPECT_TRUE(same_bits(back, want_back)) << dtype_name(dtype);
    }
  });
}

TEST(RmsNorm, MatchesReference) {
  on_every_isa([&] {
    for (const int64_t tokens : kTokens)
      for (const int64_t dim : kDims)
        for (const float scale : {1.0f, 1e-20f, 1e15f}) {
          const auto x = random_floats(tokens * dim, 1, scale), weight = random_floats(dim, 2);
          for (const float offset : {0.0f, 1.0f}) {
            std::vector<float> want(x.size());
            reference::rms_norm(x.data(), weight.data(), offset, 1e-6f, tokens, dim, want.data());
            const auto got = same_for_any_threads([&] {
              std::vector<float> y = x;  // in place
              rms_norm(y.data(), weight.data(), offset, 1e-6f, tokens, dim, y.data());
              return y;
            });
            EXPECT_LT(relative_error(got, want), 1e-6) << tokens << " x " << dim << " scale " << scale;
          }
        }
  });
}

TEST(SiluMul, MatchesReference) {
  on_every_isa([&] {
    for (const int64_t tokens : kTokens)
      for (const int64_t dim : kDims) {
        auto x = random_floats(tokens * 2 * dim, 1, 4.0f);
        if (tokens > 1) x[0] = -200.0f, x[1] = 200.0f;
        std::vector<float> want(static_cast<size_t>(tokens * dim));
        reference::silu_mul(x.data(), tokens, dim, want.data());
        const auto got = same_for_any_threads([&] {
          std::vector<float> y(want.size());
          silu_mul(x.data(), tokens, dim, y.data());
          return y;
        });
        EXPECT_LT(relative_error(got, want), 1e-6) << tokens << " x " << dim;
      }
  });
}

TEST(GeluMul, MatchesReference) {
  on_every_isa([&] {
    for (const int64_t tokens : kTokens)
      for (const int64_t dim : kDims) {
        auto x = random_floats(tokens * 2 * dim, 1, 4.0f);
        if (tokens > 1) x[0] = -200.0f, x[1] = 200.0f;
        std::vector<float> want(static_cast<size_t>(tokens * dim));
        reference::gelu_mul(x.data(), tokens, dim, want.data());
        const auto got = same_for_any_threads([&] {
          std::vector<float> y(want.size());
          gelu_mul(x.data(), tokens, dim, y.data());
          return y;
        });
        EXPECT_LT(relative_error(got, want), 1e-6) << tokens << " x " << dim;
      }
  });
}

TEST(Softcap, MatchesReference) {
  on_every_isa([&] {
    for (const int64_t n : {1, 7, 33, 40003})
      for (const float cap : {2.0f, 50.0f}) {
        auto x = random_floats(n, 1, 30.0f);
        x[0] = -1e6f;
        auto want = x;
        reference::softcap(want.data(), cap, n);
        const auto got = same_for_any_threads([&] {
          auto y = x;
          softcap(y.data(), cap, n);
          return y;
        });
        EXPECT_LT(relative_error(got, want), 1e-6) << n;
      }
  });
}

TEST(Add, AddsVectorsAndBiases) {
  on_every_isa([&] {
    const int64_t n = 40003;
    auto x = random_floats(n, 1);
    const auto y = random_floats(n, 2), before = x;
    add_inplace(x.data(), y.data(), n);
    for (int64_t i = 0; i < n; ++i) ASSERT_EQ(x[i], before[i] + y[i]);
    auto rows = random_floats(7 * 20, 3);
    const auto rows_before = rows, bias = random_floats(17, 4);
    add_bias(rows.data(), 20, bias.data(), 7, 17);
    for (int64_t t = 0; t < 7; ++t)
      for (int64_t i = 0; i < 20; ++i)
        ASSERT_EQ(rows[t * 20 + i], rows_before[t * 20 + i] + (i < 17 ? bias[i] : 0.0f));
  });
}

TEST(Embed, ConvertsRowsAndNamesABadId) {
  on_every_isa([&] {
    for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
      const Tensor table = Tensor::from(random_floats(11 * 37, 1), {11, 37}).to(dtype);
      const std::vector<int32_t> ids = {0, 10, 3, 3};
      std::vector<float> got(4 * 37), want(4 * 37);
      reference::embed(table, ids, want.data());
      embed(table, ids, got.data());
      EXPECT_TRUE(same_bits(got, want));
      for (const int32_t bad : {-1, 11}) {
        try {
          embed(table, std::vector<int32_t>{bad}, got.data());
          ADD_FAILURE() << "no error for id " << bad;
        } catch (const Error& e) {
          EXPECT_EQ(e.code(), Code::kBadArgument);
          EXPECT_EQ(std::string(e.what()), fmt::format("token id {}: expected 0 to 10", bad));
        }
      }
    }
  });
}

TEST(Rope, MatchesReferenceForFullAndPartialRotation) {
  struct {
    int64_t heads, head_dim, pairs;
  } cases[] = {{1, 2, 1}, {3, 16, 8}, {2, 10, 5}, {4, 64, 32}, {2, 80, 20}};
  on_every_isa([&] {
    for (const auto& c : cases)
      for (const int64_t tokens : kTokens) {
        std::vector<double> inv_freq;
        for (int64_t i = 0; i < c.pairs; ++i)
          inv_freq.push_back(std::pow(10000.0, -double(i) / double(c.pairs)));
        std::vector<int32_t> positions;
        for (int64_t t = 0; t < tokens; ++t) positions.push_back(static_cast<int32_t>(t * t * 117 % 30011));
        const int64_t ldx = c.heads * c.head_dim + 5;
        const auto x = random_floats(tokens * ldx, 1);
        for (const float magnitude : {1.0f, 1.25f}) {
          auto want = x;
          reference::rope(want.data(), ldx, tokens, c.heads, c.head_dim, positions, inv_freq, magnitude);
          const auto got = same_for_any_threads([&] {
            auto y = x;
            rope(y.data(), ldx, tokens, c.heads, c.head_dim, positions, inv_freq, magnitude);
            return y;
          });
          EXPECT_LT(relative_error(got, want), 3e-7) << tokens << " tokens, head_dim " << c.head_dim;
        }
      }
  });
}

TEST(LogSoftmaxGather, MatchesReference) {
  on_every_isa([&] {
    for (const int64_t tokens : kTokens)
      for (const int64_t vocab : {1, 5, 16, 1003}) {
        auto logits = random_floats(tokens * vocab, 1, 6.0f);
        std::vector<int32_t> target;
        for (int64_t t = 0; t < tokens; ++t) target.push_back(static_cast<int32_t>(t * 31 % vocab));
        std::vector<double> want(static_cast<size_t>(tokens));
        reference::log_softmax_gather(logits.data(), tokens, vocab, target.data(), want.data());
        const auto got = same_for_any_threads([&] {
          std::vector<double> y(want.size());
          log_softmax_gather(logits.data(), tokens, vocab, target.data(), y.data());
          return y;
        });
        for (int64_t t = 0; t < tokens; ++t) EXPECT_NEAR(got[t], want[t], 1e-6);
      }
  });
}

TEST(LogSoftmaxGather, RefusesATargetOutsideTheVocabulary) {
  const std::vector<float> logits(10);
  const int32_t target = 10;
  double y;
  EXPECT_THROW(log_softmax_gather(logits.data(), 1, 10, &target, &y), Error);
}

TEST(KlDivergence, MatchesReferenceAndIsZeroForEqualRows) {
  on_every_isa([&] {
    for (const int64_t tokens : kTokens)
      for (const int64_t vocab : {1, 5, 16, 1003})
        for (const float distance : {0.0f, 0.01f, 2.0f}) {
          const auto p = random_floats(tokens * vocab, 1, 4.0f);
          auto q = p;
          const auto noise = random_floats(tokens * vocab, 2, distance);
          for (size_t i = 0; i < q.size(); ++i) q[i] += noise[i];
          std::vector<double> want(static_cast<size_t>(tokens));
          std::vector<uint8_t> want_top(want.size()), top(want.size());
          reference::kl_divergence(p.data(), q.data(), tokens, vocab, want.data(), want_top.data());
          const auto got = same_for_any_threads([&] {
            std::vector<double> y(want.size());
            kl_divergence(p.data(), q.data(), tokens, vocab, y.data(), top.data());
            return y;
          });
          EXPECT_EQ(top, want_top);
          for (int64_t t = 0; t < tokens; ++t) {
            // The exponentials are floats: about 1e-8 absolute, whatever the divergence.
            EXPECT_NEAR(got[t], want[t], 5e-8 + 1e-6 * want[t])
                << "vocab " << vocab << " distance " << distance;
            if (distance == 0) {
              EXPECT_EQ(got[t], 0.0);
            }
          }
        }
  });
}

TEST(KlDivergence, TiesTakeTheFirstIndex) {
  std::vector<float> p(40, 0.0f), q(40, 0.0f);
  p[20] = p[30] = 5.0f;
  q[30] = 5.0f;
  double kl;
  uint8_t same;
  on_every_isa([&] {
    q[20] = 5.0f;
    kl_divergence(p.data(), q.data(), 1, 40, &kl, &same);
    EXPECT_EQ(same, 1);
    q[20] = 4.0f;
    kl_divergence(p.data(), q.data(), 1, 40, &kl, &same);
    EXPECT_EQ(same, 0);
  });
}

}  // namespace
}  // namespace awq
