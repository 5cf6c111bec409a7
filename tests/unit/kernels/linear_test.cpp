// Linear layers and gemm_nt against plain loops in double, on every instruction-set path.
#include "kernels/linear.h"

#include <fmt/core.h>

#include "kernel_testing.h"
#include "kernels/ops.h"
#include "kernels/reference.h"

namespace awq {
namespace {

using namespace testing;

constexpr int64_t kTokens[] = {0, 1, 2, 3, 5, 7, 8, 9, 16, 17, 33};

// Rows of y are `out + 3` apart; the three columns between must stay as they were.
std::vector<float> run(const PackedLinear& linear, const std::vector<float>& x, int64_t tokens) {
  const int64_t ldy = linear.out() + 3;
  std::vector<float> y(static_cast<size_t>(tokens * ldy), 77.0f);
  linear.run(x.data(), tokens, y.data(), ldy);
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t i = 0; i < 3; ++i) EXPECT_EQ(y[t * ldy + linear.out() + i], 77.0f);
  std::vector<float> result;
  for (int64_t t = 0; t < tokens; ++t)
    result.insert(result.end(), y.begin() + t * ldy, y.begin() + t * ldy + linear.out());
  return result;
}

TEST(Gemm, MatchesReferenceAtOddSizes) {
  struct {
    int64_t m, n, k;
  } cases[] = {{1, 1, 1},     {2, 3, 5},     {9, 1, 3},     {13, 33, 17}, {14, 32, 256},
               {15, 31, 257}, {29, 65, 300}, {70, 96, 576}, {9, 40, 0}};
  on_every_isa([&] {
    for (const auto& c : cases) {
      SCOPED_TRACE(fmt::format("m {} n {} k {}", c.m, c.n, c.k));
      const int64_t ldx = c.k + 2, ldw = c.k + 1, ldy = c.n + 1;
      const auto x = random_floats(c.m * ldx, 1), w = random_floats(c.n * ldw, 2);
      std::vector<float> want(static_cast<size_t>(c.m * ldy), 5.0f);
      reference::gemm_nt(x.data(), ldx, w.data(), ldw, want.data(), ldy, c.m, c.n, c.k);
      const auto got = same_for_any_threads([&] {
        std::vector<float> y(static_cast<size_t>(c.m * ldy), 5.0f);
        gemm_nt(x.data(), ldx, w.data(), ldw, y.data(), ldy, c.m, c.n, c.k);
        return y;
      });
      EXPECT_LT(relative_error(got, want), 1e-6);
    }
  });
}

TEST(Gemm, ResultOfARowDoesNotDependOnTheOthers) {
  const int64_t n = 50, k = 300;
  const auto x = random_floats(2100 * k, 1), w = random_floats(n * k, 2);
  on_every_isa([&] {
    std::vector<float> few(20 * n), many(2100 * n);
    gemm_nt(x.data(), k, w.data(), k, few.data(), n, 20, n, k);
    gemm_nt(x.data(), k, w.data(), k, many.data(), n, 2100, n, k);
    EXPECT_EQ(std::memcmp(few.data(), many.data(), few.size() * sizeof(float)), 0);
  });
}

TEST(DenseLinear, MatchesReferenceForEveryTypeAndTokenCount) {
  struct {
    int64_t out, in;
  } shapes[] = {{1, 1}, {37, 45}, {64, 576}, {96, 131}};
  on_every_isa([&] {
    for (const auto& s : shapes)
      for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
        const Tensor w = Tensor::from(random_floats(s.out * s.in, 3), {s.out, s.in}).to(dtype);
        const auto linear = pack_linear(w, Precision::kExact);
        EXPECT_EQ(linear->bytes(), w.nbytes());
        for (const int64_t tokens : kTokens) {
          SCOPED_TRACE(fmt::format("{} [{}, {}] x {} tokens", linear->kernel(), s.out, s.in, tokens));
          const auto x = random_floats(tokens * s.in, 4);
          std::vector<float> want(static_cast<size_t>(tokens * s.out));
          reference::linear(w, x.data(), tokens, want.data(), s.out);
          EXPECT_LT(relative_error(same_for_any_threads([&] { return run(*linear, x, tokens); }), want),
                    1e-6);
        }
      }
  });
}

TEST(DenseLinear, Bf16RoundsBothSidesForAnyTokenCount) {
  on_every_isa([&] {
    if (isa() != Isa::kAvx512Bf16) return;
    for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16})
      for (const int64_t in : {1, 33, 64, 301}) {
        const Tensor w = Tensor::from(random_floats(45 * in, 3), {45, in}).to(dtype);
        const auto linear = pack_linear(w, Precision::kBf16);
        EXPECT_EQ(linear->bytes(), 2 * w.numel());
        for (const int64_t tokens : kTokens) {
          SCOPED_TRACE(fmt::format("{} in {} tokens {}", dtype_name(dtype), in, tokens));
          const auto x = random_floats(tokens * in, 4);
          const auto rounded = rounded_to_bf16(x);
          std::vector<float> want(static_cast<size_t>(tokens * 45));
          reference::linear(w.to(DType::kBF16), rounded.data(), tokens, want.data(), 45);
          EXPECT_LT(relative_error(same_for_any_threads([&] { return run(*linear, x, tokens); }), want),
                    1e-6);
        }
      }
  });
}

TEST(DenseLinear, KeepsSubnormalNumbers) {
  // Weights and inputs whose products are subnormal or whose weights are: nothing may be flushed to zero.
  const auto tiny = random_floats(40 * 48, 3, 1e-39f), small = random_floats(40 * 48, 5, 1e-20f);
  on_every_isa([&] {
    for (const auto& [values, x_scale] : {std::pair{&tiny, 1.0f}, std::pair{&small, 1e-19f}}) {
      const auto linear = pack_linear(Tensor::from(*values, {40, 48}), Precision::kExact);
      for (const int64_t tokens : {1, 33}) {
        const auto x = random_floats(tokens * 48, 4, x_scale);
        std::vector<float> want(static_cast<size_t>(tokens * 40));
        reference::linear(Tensor::from(*values, {40, 48}), x.data(), tokens, want.data(), 40);
        const auto got = run(*linear, x, tokens);
        // Each of the 48 sums rounds to a multiple of 2^-149.
        for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], want[i], 100 * 0x1p-149) << tokens;
      }
    }
  });
}

TEST(DenseLinear, KeepsMappedFloatsWithoutCopying) {
  const Tensor w = Tensor::from(random_floats(64, 3), {8, 8});
  std::vector<float> changed = random_floats(64, 9);
  const Tensor view(DType::kF32, {8, 8}, reinterpret_cast<const std::byte*>(changed.data()), nullptr);
  const auto linear = pack_linear(view, Precision::kExact);
  std::copy_n(w.f32(), 64, changed.begin());
  const auto x = random_floats(8, 4);
  std::vector<float> want(8);
  reference::linear(w, x.data(), 1, want.data(), 8);
  EXPECT_LT(relative_error(run(*linear, x, 1), want), 1e-6);
}

TEST(DenseLinear, AcceptsUnalignedBytes) {
  const Tensor w = Tensor::from(random_floats(64, 3), {8, 8});
  std::vector<std::byte> bytes(1 + w.nbytes());
  std::memcpy(bytes.data() + 1, w.bytes(), w.nbytes());
  const auto linear = pack_linear(Tensor(DType::kF32, {8, 8}, bytes.data() + 1, nullptr), Precision::kExact);
  const auto x = random_floats(8, 4);
  std::vector<float> want(8);
  reference::linear(w, x.data(), 1, want.data(), 8);
  EXPECT_LT(relative_error(run(*linear, x, 1), want), 1e-6);
}

TEST(QuantLinear, MatchesReferenceForEverySchemeAndTokenCount) {
  struct {
    int64_t out, in;
    int bits, group;
    bool zeros;
    DType scale;
  } cases[] = {{64, 128, 4, 32, true, DType::kF16},    {40, 576, 4, 64, true, DType::kF16},
               {17, 384, 4, 128, false, DType::kBF16}, {33, 48, 4, 8, true, DType::kF32},
               {8, 100, 4, -1, true, DType::kF16},     {5, 7, 4, -1, false, DType::kF16},
               {48, 128, 8, 64, true, DType::kF16},    {31, 72, 3, 24, true, DType::kF16},
               {16, 64, 2, 16, false, DType::kF32},    {19, 130, 5, -1, true, DType::kBF16},
               {100, 64, 6, 64, true, DType::kF16},    {65, 96, 7, 32, true, DType::kF16}};
  on_every_isa([&] {
    for (const auto& c : cases) {
      const QuantWeight w = random_quant(c.out, c.in, c.bits, c.group, c.zeros, c.scale, 11);
      const auto linear = pack_linear(w, Precision::kExact);
      for (const int64_t tokens : kTokens) {
        SCOPED_TRACE(fmt::format("{} {} [{}, {}] x {} tokens", linear->kernel(), w.scheme.text(), c.out, c.in,
                                 tokens));
        const auto x = random_floats(tokens * c.in, 4);
        std::vector<float> want(static_cast<size_t>(tokens * c.out));
        reference::linear(w, x.data(), tokens, want.data(), c.out);
        EXPECT_LT(relative_error(same_for_any_threads([&] { return run(*linear, x, tokens); }), want), 2e-6);
      }
    }
  });
}

TEST(QuantLinear, Bf16ProductsStayWithinTheRoundingOfBothSides) {
  on_every_isa([&] {
    if (isa() != Isa::kAvx512Bf16) return;
    for (const int bits : {3, 4})
      for (const int64_t in : {77, 128}) {
        const QuantWeight w = random_quant(50, in, bits, in == 77 ? -1 : 32, true, DType::kF16, 12);
        const auto linear = pack_linear(w, Precision::kBf16);
        Tensor dense(DType::kF32, {50, in});
        dequantize(w, dense.f32());
        const auto x = random_floats(33 * in, 4);
        const auto rounded = rounded_to_bf16(x);
        std::vector<float> want(33 * 50);
        reference::linear(dense.to(DType::kBF16), rounded.data(), 33, want.data(), 50);
        EXPECT_LT(relative_error(run(*linear, x, 33), want), 1e-6);
      }
  });
}

// nf4, real zeros and int8 activations on top of random_quant.
QuantWeight random_of(Scheme scheme, int64_t out, int64_t in) {
  QuantWeight w =
      random_quant(out, in, scheme.bits, scheme.group, scheme.zero == ZeroKind::kInteger, DType::kF32, 21);
  w.scheme = scheme;
  if (scheme.zero == ZeroKind::kReal)
    w.offsets = random_floats(static_cast<int64_t>(w.scales.size()), 22, 0.02f);
  return w;
}

TEST(QuantLinear, LevelsRealZerosAndInt8ActivationsMatchReference) {
  const Scheme nf4{CodeKind::kNf4, 4, 64, ZeroKind::kNone};
  const Scheme int8{CodeKind::kAffine, 8, -1, ZeroKind::kNone, Activations::kInt8Token};
  Scheme outliers = int8, grouped = int8, nf4_int8 = nf4;
  outliers.activations = Activations::kInt8Outliers;
  outliers.outlier_threshold = 2.0f;
  grouped.bits = 4;
  grouped.group = 32;
  grouped.zero = ZeroKind::kInteger;
  nf4_int8.activations = Activations::kInt8Token;
  const struct {
    Scheme scheme;
    int64_t out, in;
    const char* kernel;
  } cases[] = {{nf4, 40, 576, "nf4-"},
               {nf4, 33, 64, "nf4-"},
               {{CodeKind::kNf4, 4, -1, ZeroKind::kNone}, 5, 7, "nf4-"},
               {{CodeKind::kAffine, 4, 32, ZeroKind::kReal}, 17, 384, "w4-"},
               {{CodeKind::kAffine, 8, 32, ZeroKind::kReal}, 48, 96, "w8-"},
               {{CodeKind::kAffine, 2, -1, ZeroKind::kReal}, 3, 45, "w4-"},
               {int8, 40, 576, "w8a8-"},
               {grouped, 31, 320, "-token"},
               {outliers, 37, 300, "-outliers"},
               {nf4_int8, 12, 128, "-a8-token"}};
  on_every_isa([&] {
    for (const auto& c : cases)
      for (const Precision precision : {Precision::kExact, Precision::kBf16}) {
        const QuantWeight w = random_of(c.scheme, c.out, c.in);
        const auto linear = pack_linear(w, precision);
        EXPECT_NE(linear->kernel().find(c.kernel), std::string::npos) << linear->kernel();
        for (const int64_t tokens : kTokens) {
          SCOPED_TRACE(fmt::format("{} {} [{}, {}] x {} tokens", linear->kernel(), c.scheme.text(), c.out,
                                   c.in, tokens));
          auto x = random_floats(tokens * c.in, 4);
          if (tokens > 1) std::fill(x.begin(), x.begin() + c.in, 0.0f);  // a token of zeros
          std::vector<float> want(static_cast<size_t>(tokens * c.out));
          reference::linear(w, x.data(), tokens, want.data(), c.out);
          const bool integers = linear->kernel().starts_with("w8a8") || linear->kernel().starts_with("w4a8");
          const bool rounds = precision == Precision::kBf16 && isa() == Isa::kAvx512Bf16 && !integers;
          EXPECT_LT(relative_error(same_for_any_threads([&] { return run(*linear, x, tokens); }), want),
                    rounds ? 1e-2 : 2e-6);
        }
      }
  });
}

TEST(QuantLinear, Int8ActivationsMeetIntegersInEveryPrecision) {
  const QuantWeight w =
      random_of({CodeKind::kAffine, 8, -1, ZeroKind::kNone, Activations::kInt8Token}, 40, 512);
  on_every_isa([&] {
    for (const int64_t tokens : {1, 40}) {
      const auto x = random_floats(tokens * 512, 4);
      const auto exact = run(*pack_linear(w, Precision::kExact), x, tokens);
      for (const Precision precision : {Precision::kBf16, Precision::kFast})
        EXPECT_EQ(exact, run(*pack_linear(w, precision), x, tokens));
    }
  });
}

TEST(QuantLinear, OutliersOfOneTokenDoNotTouchAnother) {
  QuantWeight w =
      random_of({CodeKind::kAffine, 8, -1, ZeroKind::kNone, Activations::kInt8Outliers, 6.0f}, 20, 96);
  const auto linear = pack_linear(w, Precision::kExact);
  auto x = random_floats(2 * 96, 4);
  const auto alone = run(*linear, {x.begin() + 96, x.end()}, 1);
  x[5] = 400;
  const auto both = run(*linear, x, 2);
  EXPECT_TRUE(std::equal(alone.begin(), alone.end(), both.begin() + 20));
}

// An activation that overflowed must not vanish among the outliers or be clamped.
TEST(QuantLinear, InfiniteActivationsOfATokenMakeItNan) {
  for (const Activations kind : {Activations::kInt8Token, Activations::kInt8Outliers}) {
    Scheme scheme{CodeKind::kAffine, 8, -1, ZeroKind::kNone, kind};
    if (kind == Activations::kInt8Outliers) scheme.outlier_threshold = 6.0f;
    const auto linear = pack_linear(random_of(scheme, 20, 96), Precision::kFast);
    for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
      auto x = random_floats(2 * 96, 4);
      x[7] = bad;
      const auto y = run(*linear, x, 2);
      EXPECT_TRUE(std::all_of(y.begin(), y.begin() + 20, [](float v) { return std::isnan(v); }));
      EXPECT_TRUE(std::none_of(y.begin() + 20, y.end(), [](float v) { return std::isnan(v); }));
    }
  }
}

TEST(QuantLinear, FourBitsStayFourBits) {
  const QuantWeight w = random_quant(64, 256, 4, 64, true, DType::kF16, 1);
  const int64_t groups = 64 * 4;
  EXPECT_EQ(pack_linear(w, Precision::kExact)->bytes(), 64 * 256 / 2 + groups * (2 + 1));
  const QuantWeight three = random_quant(64, 256, 3, 64, true, DType::kF16, 1);
  EXPECT_EQ(pack_linear(three, Precision::kExact)->bytes(), 64 * 256 / 2 + groups * (2 + 1));
  const QuantWeight nf4 = random_of({CodeKind::kNf4, 4, 64, ZeroKind::kNone}, 64, 256);
  EXPECT_EQ(pack_linear(nf4, Precision::kBf16)->bytes(), 64 * 256 / 2 + groups * 4);
}

TEST(QuantLinear, RefusesGroupsThatSplitAWord) {
  EXPECT_THROW(pack_linear(random_quant(16, 24, 4, 12, true, DType::kF16, 1), Precision::kExact), Error);
}

TEST(Linear, ATokenHasTheSameBitsInAnyBatch) {
  constexpr int64_t kAll = 75, kOut = 80, kIn = 192;
  const auto x = random_floats(kAll * kIn, 4);
  const Tensor dense = Tensor::from(random_floats(kOut * kIn, 3), {kOut, kIn});
  const Scheme int8{CodeKind::kAffine, 8, -1, ZeroKind::kNone, Activations::kInt8Token};
  Scheme outliers = int8;
  outliers.activations = Activations::kInt8Outliers;
  outliers.outlier_threshold = 2.0f;
  const Scheme schemes[] = {{CodeKind::kAffine, 4, 64, ZeroKind::kInteger}, {CodeKind::kAffine, 3, 32, ZeroKind::kInteger},
                            {CodeKind::kNf4, 4, 64, ZeroKind::kNone},       {CodeKind::kAffine, 4, 32, ZeroKind::kReal},
                            int8,                                           outliers};
  on_every_isa([&] {
    for (const Precision precision : {Precision::kExact, Precision::kFast}) {
      std::vector<std::unique_ptr<PackedLinear>> layers;
      for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16})
        layers.push_back(pack_linear(dense.to(dtype), precision, Product::kInvariant));
      for (const Scheme& scheme : schemes)
        layers.push_back(pack_linear(random_of(scheme, kOut, kIn), precision, Product::kInvariant));
      for (const auto& layer : layers) {
        const auto all = run(*layer, x, kAll);
        for (const int64_t count : {1, 3, 8, 17, 33})
          for (const int64_t t : {int64_t{0}, int64_t{9}, kAll - count}) {
            const auto some = run(*layer, {x.begin() + t * kIn, x.begin() + (t + count) * kIn}, count);
            EXPECT_EQ(std::memcmp(some.data(), all.data() + t * kOut, some.size() * sizeof(float)), 0)
                << layer->kernel() << ", " << count << " tokens from " << t;
          }
      }
    }
  });
}

}  // namespace
}  // namespace awq
