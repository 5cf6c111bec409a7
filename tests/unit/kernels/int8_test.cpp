// The int8 products: every instruction set gives the bits of the definition (kernels/cpu/int8_table.h).
#include <fmt/core.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>

#include "kernel_testing.h"
#include "kernels/cpu/int8_linear.h"
#include "kernels/cpu/scratch.h"
#include "kernels/reference.h"

namespace awq {
namespace {

using namespace testing;

std::vector<const simd::Int8Table*> tables() {
  std::vector<const simd::Int8Table*> list = {&simd::int8_portable()};
  const Isa best = available_isas().back();
  if (best >= Isa::kAvx2) list.push_back(&simd::int8_avx2());
  if (best >= Isa::kAvx2 && __builtin_cpu_supports("avxvnni")) list.push_back(&simd::int8_avxvnni());
  if (best >= Isa::kAvx512 && __builtin_cpu_supports("avx512vnni")) list.push_back(&simd::int8_avx512vnni());
  if (best >= Isa::kAvx512Bf16 && simd::amx_permitted()) list.push_back(&simd::int8_amx());
  return list;
}

// The definition in plain loops. `block`: columns that share an activation scale.
std::vector<float> defined(const QuantWeight& w, int64_t block, const std::vector<float>& x, int64_t tokens) {
  std::vector<float> y(static_cast<size_t>(tokens * w.rows));
  const int64_t group = w.scheme.group_size(w.cols);
  for (int64_t t = 0; t < tokens; ++t) {
    const float* row = x.data() + t * w.cols;
    for (int64_t n = 0; n < w.rows; ++n) {
      float sum = 0;
      for (int64_t k0 = 0; k0 < w.cols; k0 += block) {
        const int64_t k1 = std::min(w.cols, k0 + block), g = k0 / group;
        float top = 0;
        bool finite = true;
        for (int64_t k = k0; k < k1; ++k) {
          finite = finite && std::isfinite(row[k]);
          top = std::max(top, std::abs(row[k]));
        }
        int64_t d = 0;
        if (finite && top >= 1e-30f)
          for (int64_t k = k0; k < k1; ++k)
            d += (w.codes[static_cast<size_t>(n * w.cols + k)] - w.zero_at(n, g)) *
                 static_cast<int64_t>(std::nearbyint(row[k] * (127.0f / top)));
        const float scale = !finite ? NAN : top >= 1e-30f ? top / 127.0f : 0.0f;
        sum = std::fma(static_cast<float>(d), w.scales[static_cast<size_t>(n * w.groups() + g)] * scale, sum);
      }
      y[static_cast<size_t>(t * w.rows + n)] = sum;
    }
  }
  return y;
}

std::vector<float> run(const PackedLinear& linear, const std::vector<float>& x, int64_t tokens) {
  const int64_t ldy = linear.out() + 3;
  std::vector<float> y(static_cast<size_t>(tokens * ldy), 77.0f), result;
  linear.run(x.data(), tokens, y.data(), ldy);
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t i = 0; i < 3; ++i) EXPECT_EQ(y[t * ldy + linear.out() + i], 77.0f);
    result.insert(result.end(), y.begin() + t * ldy, y.begin() + t * ldy + linear.out());
  }
  return result;
}

bool equal_or_both_nan(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i)
    if (std::memcmp(&a[i], &b[i], sizeof(float)) != 0 && !(std::isnan(a[i]) && std::isnan(b[i])))
      return false;
  return true;
}

struct Case {
  int64_t out, in;
  int bits, group;
  bool zeros;
  DType scale;
  int64_t block;  // what the kernels choose
};
const Case kCases[] = {{64, 128, 4, 32, true, DType::kF16, 32},     {40, 576, 4, 64, true, DType::kF16, 64},
                       {17, 384, 4, 128, false, DType::kBF16, 128}, {33, 48, 4, 8, true, DType::kF32, 8},
                       {8, 100, 4, -1, true, DType::kF16, 128},     {5, 7, 4, -1, false, DType::kF16, 32},
                       {48, 128, 8, 64, true, DType::kF16, 64},     {31, 96, 3, 32, true, DType::kF16, 32},
                       {80, 256, 3, 128, true, DType::kF16, 128},   {31, 72, 3, 24, true, DType::kF16, 24},
                       {16, 64, 2, 16, false, DType::kF32, 16},     {19, 130, 5, -1, true, DType::kBF16, 128},
                       {100, 64, 6, 64, false, DType::kF16, 64},    {65, 96, 8, 32, false, DType::kF16, 32},
                       {70, 1024, 4, 512, true, DType::kF16, 256},  {33, 1536, 4, -1, true, DType::kF16, 256},
                       {130, 640, 4, 160, true, DType::kF16, 160}};

TEST(Int8Linear, EveryInstructionSetGivesTheDefinedBitsForAnyTokenCount) {
  for (const Case& c : kCases) {
    const QuantWeight w = random_quant(c.out, c.in, c.bits, c.group, c.zeros, c.scale, 11);
    ASSERT_TRUE(int8_supports(w));
    for (const simd::Int8Table* table : tables())
      for (const Product product : {Product::kAuto, Product::kGemv, Product::kGemm}) {
        const auto linear = pack_int8(w, product, *table);
        for (const int64_t tokens : {0, 1, 2, 3, 5, 8, 9, 17, 31, 32, 47}) {
          SCOPED_TRACE(fmt::format("{} {} [{}, {}] x {} tokens, product {}", linear->kernel(),
                                   w.scheme.text(), c.out, c.in, tokens, static_cast<int>(product)));
          const auto x = random_floats(tokens * c.in, 4);
          const auto got = same_for_any_threads([&] { return run(*linear, x, tokens); });
          ASSERT_TRUE(same_bits(got, defined(w, c.block, x, tokens)));
        }
      }
  }
}

TEST(Int8Linear, StaysCloseToTheExactProduct) {
  const QuantWeight w = random_quant(128, 1024, 4, 64, true, DType::kF16, 5);
  const auto x = random_floats(9 * 1024, 6);
  std::vector<float> want(9 * 128);
  reference::linear(w, x.data(), 9, want.data(), 128);
  EXPECT_LT(relative_error(run(*pack_linear(w, Precision::kFast), x, 9), want), 0.01);
}

TEST(Int8Linear, ATokenHasTheSameBitsInAnyBatch) {
  const QuantWeight w = random_quant(80, 384, 4, 64, true, DType::kF16, 1);
  const auto x = random_floats(600 * 384, 4);
  for (const simd::Int8Table* table : tables()) {
    const auto linear = pack_int8(w, Product::kAuto, *table);
    const auto all = run(*linear, x, 600);
    for (const int64_t t : {0, 1, 15, 31, 32, 511, 512, 599}) {
      const std::vector<float> one(x.begin() + t * 384, x.begin() + (t + 1) * 384);
      EXPECT_TRUE(same_bits(run(*linear, one, 1), {all.begin() + t * 80, all.begin() + (t + 1) * 80}))
          << table->name << ' ' << t;
    }
  }
}

TEST(Int8Linear, ExtremeActivations) {
  const QuantWeight w = random_quant(40, 96, 4, 32, true, DType::kF16, 3);
  auto x = random_floats(6 * 96, 4);
  std::fill_n(x.begin(), 96, 0.0f);               // token 0: zeros
  for (int i = 96; i < 192; ++i) x[i] *= 1e-42f;  // 1: subnormal, counts as zero
  for (int i = 192; i < 288; ++i) x[i] *= 1e37f;  // 2: near the end of the range
  x[3 * 96 + 40] = INFINITY;                      // 3, 4: outputs become NaN
  x[4 * 96 + 95] = -NAN;
  for (int i = 5 * 96; i < 6 * 96; ++i) x[i] = 0.5f + 1.0f * static_cast<float>(i % 3);  // 5: ties
  for (const simd::Int8Table* table : tables())
    for (const Product product : {Product::kGemv, Product::kGemm}) {
      const auto y = run(*pack_int8(w, product, *table), x, 6);
      EXPECT_TRUE(equal_or_both_nan(y, defined(w, 32, x, 6))) << table->name;
      EXPECT_TRUE(std::isnan(y[3 * 40]) && std::isnan(y[4 * 40 + 39]) && y[0] == 0 && y[40] == 0);
    }
}

TEST(Int8Linear, SubnormalScales) {
  QuantWeight w = random_quant(32, 64, 4, 32, true, DType::kF16, 3);
  for (size_t i = 0; i < w.scales.size(); ++i) w.scales[i] = static_cast<float>(i % 7) * 0x1p-24f;
  const auto x = random_floats(3 * 64, 4, 1e-25f);  // scales multiply to subnormal numbers
  for (const simd::Int8Table* table : tables())
    EXPECT_TRUE(same_bits(run(*pack_int8(w, Product::kAuto, *table), x, 3), defined(w, 32, x, 3)))
        << table->name;
}

// Memory whose last byte is followed by a page that must not be touched, and whose first byte begins after
// one.
class Guarded {
 public:
  Guarded(const void* bytes, int64_t n) : n_(n) {
    const int64_t page = ::sysconf(_SC_PAGESIZE);
    size_ = round_up(n, page) + 2 * page;
    base_ = static_cast<char*>(
        ::mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    ::mprotect(base_, page, PROT_NONE);
    ::mprotect(base_ + size_ - page, page, PROT_NONE);
    at_ = base_ + size_ - page - n;
    if (bytes) std::memcpy(at_, bytes, n);
  }
  ~Guarded() { ::munmap(base_, size_); }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(at_);
  }

 private:
  int64_t n_, size_;
  char *base_, *at_;
};

TEST(Int8Table, TouchesNothingBeyondItsOperands) {
  // One block of 48 columns (a padded one in x), three row blocks of which the last has five rows.
  constexpr int64_t kTokens = 35, kColumns = 41, kBlock = 48, kRows = 37;
  const auto numbers = random_floats(kTokens * kColumns, 1);
  const Guarded x(numbers.data(), kTokens * kColumns * 4), scale(nullptr, kTokens * 4),
      negsum(nullptr, kTokens * 4);
  const Guarded q(nullptr, kTokens * kBlock), y(nullptr, kTokens * kRows * 4), panel(nullptr, 32 * kBlock);
  for (const simd::Int8Table* table : tables())
    for (const int bits : {4, 8}) {
      const simd::Int8Weights sizes{bits, kBlock, 1, kBlock * bits / 32, nullptr, nullptr, true, -1};
      const std::vector<uint8_t> random(3 * kBlock * 16, 0x5a);
      const Guarded codes(random.data(), 3 * sizes.words * 64), meta(random.data(), 3 * sizes.meta_bytes());
      simd::Int8Weights w = sizes;
      w.codes = codes.as<uint32_t>();
      w.meta = meta.as<unsigned char>();
      for (int64_t t = 0; t < kTokens; ++t)
        table->quantize(x.as<float>() + t * kColumns, kColumns, kBlock, 1, q.as<int8_t>() + t * kBlock,
                        scale.as<float>() + t, negsum.as<int32_t>() + t);
      const simd::Int8Activations a{q.as<int8_t>(), kBlock, scale.as<float>(), negsum.as<int32_t>(), 1};
      for (int tokens = 1; tokens <= simd::kInt8GemvTokens; ++tokens)
        table->gemv[tokens](w, 0, 1, 3, a, kRows, y.as<float>(), kRows);
      for (int64_t b = 0; b < 3; b += simd::kInt8PanelBlocks) {
        const int count = static_cast<int>(std::min<int64_t>(simd::kInt8PanelBlocks, 3 - b));
        table->unpack(w, b, count, 0, 1, panel.as<uint8_t>());
        table->gemm(w, panel.as<uint8_t>(), b, count, 0, 1, a, kTokens, kRows - 16 * b,
                    y.as<float>() + 16 * b, kRows);
      }
    }
}

// Random weights of random shapes: AWQ_TEST_BLOCKS blocks of 16 rows and 32 to 128 columns, 20,000 by
// default.
TEST(Int8Linear, RandomBlocks) {
  const char* wanted = std::getenv("AWQ_TEST_BLOCKS");
  const int64_t limit = wanted ? std::atoll(wanted) : 20000;
  std::mt19937 rng(2026);
  for (int64_t done = 0; done < limit;) {
    const int group = 32 << rng() % 3;
    const int64_t in = group * static_cast<int64_t>(1 + rng() % 12), out = 1 + rng() % 200;
    const int bits[] = {3, 4, 4, 8};
    const QuantWeight w = random_quant(out, in, bits[rng() % 4], group, rng() % 2 == 0, DType::kF16, rng());
    const int64_t tokens = 1 + rng() % 40;
    auto x = random_floats(tokens * in, rng());
    for (float& v : x)
      if (rng() % 16 == 0) v *= std::ldexp(1.0f, static_cast<int>(rng() % 60) - 40);
    std::vector<float> first;
    for (const simd::Int8Table* table : tables()) {
      const auto y = run(*pack_int8(w, Product::kAuto, *table), x, tokens);
      if (first.empty()) {
        first = y;
        // Columns of the definition cost the most: a few rows of each weight are enough for the first table.
        const std::vector<float> row(x.begin(), x.begin() + in);
        ASSERT_TRUE(same_bits({y.begin(), y.begin() + out}, defined(w, group, row, 1)));
      }
      ASSERT_TRUE(same_bits(y, first))
          << table->name << ' ' << w.scheme.text() << " [" << out << ", " << in << "] x " << tokens;
    }
    done += ceil_div(out, 16) * (in / group);
  }
}

TEST(Int8Linear, FastPrecisionFallsBackWhereASchemeDoesNotFit) {
  const auto linear = pack_linear(random_quant(16, 24, 4, -1, true, DType::kF16, 1), Precision::kFast);
  EXPECT_EQ(linear->kernel().substr(0, 4), "w4a8");
  const auto dense = pack_linear(Tensor::from(random_floats(64, 3), {8, 8}), Precision::kFast);
  EXPECT_EQ(dense->kernel().substr(0, 5), "dense");
}

}  // namespace
}  // namespace awq
