// Gram matrices and losses against plain loops in double, on every instruction-set path.
#include <fmt/core.h>

#include "kernel_testing.h"
#include "kernels/quant_ops.h"
#include "kernels/reference.h"

namespace awq {
namespace {

using namespace testing;

TEST(GramAccumulate, MatchesReferenceOnBothTriangles) {
  on_every_isa([&] {
    for (const int64_t k : {1, 5, 31, 64, 97, 200})
      for (const int64_t tokens : {0, 1, 2, 7, 33, 256, 301}) {
        SCOPED_TRACE(fmt::format("k {} tokens {}", k, tokens));
        const int64_t ldx = k + 3;
        const auto x = random_floats(tokens * ldx, 1);
        std::vector<float> start(static_cast<size_t>(k * k), 0.5f), want = start;
        reference::gram_accumulate(x.data(), ldx, tokens, k, want.data());
        const auto got = same_for_any_threads([&] {
          auto g = start;
          gram_accumulate(x.data(), ldx, tokens, k, g.data(), false);
          return g;
        });
        EXPECT_LT(relative_error(got, want), 1e-6);
        for (int64_t i = 0; i < k; ++i)
          for (int64_t j = 0; j < i; ++j) ASSERT_EQ(got[i * k + j], got[j * k + i]);
      }
  });
}

TEST(GramAccumulate, DependsOnTheTokensNotOnHowFullChunksAreSplit) {
  const auto x = random_floats(768 * 40, 1);
  on_every_isa([&] {
    std::vector<float> once(1600), split(1600);
    gram_accumulate(x.data(), 40, 768, 40, once.data(), false);
    gram_accumulate(x.data(), 40, 256, 40, split.data(), false);
    gram_accumulate(x.data() + 256 * 40, 40, 512, 40, split.data(), false);
    EXPECT_TRUE(same_bits(once, split));
  });
}

TEST(GramAccumulate, Bf16RoundsTheInputsOnly) {
  on_every_isa([&] {
    for (const int64_t tokens : {1, 2, 33, 300}) {
      const auto x = random_floats(tokens * 70, 1);
      const auto rounded = rounded_to_bf16(x);
      const bool has = isa() == Isa::kAvx512Bf16;
      std::vector<float> want(4900), got(4900);
      reference::gram_accumulate(has ? rounded.data() : x.data(), 70, tokens, 70, want.data());
      gram_accumulate(x.data(), 70, tokens, 70, got.data(), true);
      EXPECT_LT(relative_error(got, want), 1e-6) << tokens;
    }
  });
}

TEST(GramLoss, MatchesReferenceAndTheDirectOutputError) {
  on_every_isa([&] {
    for (const int64_t k : {1, 33, 150})
      for (const int64_t rows : {0, 1, 7, 33, 300}) {
        const int64_t tokens = 200;
        const auto x = random_floats(tokens * k, 1), e = random_floats(rows * k, 2, 0.01f);
        std::vector<float> g(static_cast<size_t>(k * k));
        gram_accumulate(x.data(), k, tokens, k, g.data(), false);
        std::vector<double> want(static_cast<size_t>(rows));
        reference::gram_loss_rows(e.data(), rows, k, g.data(), want.data());
        const auto got = same_for_any_threads([&] {
          std::vector<double> loss(want.size());
          gram_loss_rows(e.data(), rows, k, g.data(), loss.data());
          return loss;
        });
        double total = 0;
        for (int64_t r = 0; r < rows; ++r) {
          double direct = 0;  // the row's error on the tokens themselves
          for (int64_t t = 0; t < tokens; ++t) {
            double out = 0;
            for (int64_t i = 0; i < k; ++i) out += double{x[t * k + i]} * double{e[r * k + i]};
            direct += out * out;
          }
          EXPECT_NEAR(got[r], want[r], 1e-6 * want[r]);
          EXPECT_NEAR(got[r], direct, 1e-5 * direct);
          total += got[r];
        }
        const auto sum = same_for_any_threads([&] { return std::vector<double>{gram_loss(e.data(), rows, k, g.data())}; })[0];
        EXPECT_NEAR(sum, total, 1e-6 * total);
        EXPECT_NEAR(gram_loss(e.data(), rows, k, g.data(), true), total, 1e-3 * total);
      }
  });
}

}  // namespace
}  // namespace awq
