// Attention over dense and paged keys against plain loops in double, on every instruction-set path.
#include <fmt/core.h>

#include <numeric>

#include "kernel_testing.h"
#include "kernels/ops.h"
#include "kernels/reference.h"

namespace awq {
namespace {

using namespace testing;

struct Case {
  int64_t heads, kv_heads, head_dim, window;
  std::vector<std::pair<int64_t, int64_t>> spans;  // past, tokens
  float softcap = 0;
};

std::string text(const Case& c) {
  return fmt::format("heads {}/{} dim {} window {} first span {}+{}", c.heads, c.kv_heads, c.head_dim,
                     c.window, c.spans[0].first, c.spans[0].second);
}

// Spans of a case over a cache whose pages lie in a shuffled order.
struct Paged {
  Paged(const Case& c, DType dtype) {
    int64_t pages = 0, first = 0;
    for (const auto& [past, added] : c.spans) pages += (past + added + kPageTokens - 1) / kPageTokens;
    std::vector<int32_t> order(static_cast<size_t>(pages));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), std::mt19937(5));
    numbers = order;
    cache.dtype = dtype;
    cache.kv_heads = c.kv_heads;
    cache.head_dim = c.head_dim;
    memory.resize(static_cast<size_t>(pages * cache.page_bytes()));
    cache.base = memory.data();
    int64_t at = 0;
    for (const auto& [past, added] : c.spans) {
      spans.push_back({first, added, past, numbers.data() + at});
      first += added;
      at += (past + added + kPageTokens - 1) / kPageTokens;
    }
    tokens = first;
    fill_past(c);
  }
  void fill_past(const Case& c) {
    for (const SpanView& span : spans) {
      const int64_t ld = c.kv_heads * c.head_dim;
      const auto k = random_floats(span.past * ld, 21), v = random_floats(span.past * ld, 22);
      const SpanView past[] = {{0, span.past, 0, span.pages}};
      reference::kv_write(cache, past, k.data(), v.data(), ld);
    }
  }
  KvLayerView cache;
  std::vector<std::byte> memory;
  std::vector<int32_t> numbers;
  std::vector<SpanView> spans;
  int64_t tokens = 0;
};

AttentionShape shape_of(const Case& c) {
  return {c.heads, c.kv_heads, c.head_dim, 1.0f / std::sqrt(static_cast<float>(c.head_dim)), c.window, c.softcap};
}

double tolerance(const Case& c) { return c.head_dim > 64 ? 4e-6 : 2e-6; }

const Case kDense[] = {{1, 1, 8, 0, {{0, 1}}},           {4, 2, 16, 0, {{0, 33}, {0, 0}, {0, 7}}},
                       {9, 3, 64, 0, {{0, 150}}},        {3, 3, 20, 0, {{0, 300}}},
                       {2, 1, 40, 5, {{0, 60}, {0, 2}}}, {6, 2, 32, 200, {{0, 290}}},
                       {7, 1, 12, 1, {{0, 20}}},         {4, 1, 256, 40, {{0, 150}}},
                       {4, 2, 256, 0, {{0, 140}}, 3.0f}};

TEST(Attention, DenseMatchesReference) {
  on_every_isa([&] {
    for (const Case& c : kDense) {
      SCOPED_TRACE(text(c));
      const Paged p(c, DType::kF32);
      const int64_t ldq = c.heads * c.head_dim + 3, ldkv = c.kv_heads * c.head_dim + 1;
      const auto q = random_floats(p.tokens * ldq, 1, 2.0f), k = random_floats(p.tokens * ldkv, 2, 2.0f),
                 v = random_floats(p.tokens * ldkv, 3);
      std::vector<float> want(static_cast<size_t>(p.tokens * c.heads * c.head_dim));
      reference::attention_dense(shape_of(c), p.spans, q.data(), ldq, k.data(), v.data(), ldkv, want.data());
      const auto got = same_for_any_threads([&] {
        std::vector<float> y(want.size());
        attention_dense(shape_of(c), p.spans, q.data(), ldq, k.data(), v.data(), ldkv, y.data());
        return y;
      });
      EXPECT_LT(relative_error(got, want), tolerance(c));
    }
  });
}

const Case kPaged[] = {{2, 1, 8, 0, {{0, 1}}},
                       {4, 2, 16, 0, {{40, 1}, {0, 33}, {15, 2}, {16, 7}}},
                       {9, 3, 64, 0, {{130, 20}, {255, 1}}},
                       {8, 8, 24, 0, {{70, 3}}},
                       {6, 2, 32, 50, {{200, 1}, {100, 90}}},
                       {4, 1, 16, 0, {{2500, 1}, {1030, 3}, {5, 4}}},  // split over key ranges
                       {4, 2, 16, 1500, {{3000, 2}}},
                       {4, 1, 256, 512, {{700, 1}, {100, 40}}},
                       {4, 2, 256, 60, {{300, 1}, {20, 80}}, 3.0f}};

TEST(Attention, PagedMatchesReference) {
  on_every_isa([&] {
    for (const Case& c : kPaged)
      for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16, DType::kI8}) {
        SCOPED_TRACE(text(c) + " " + dtype_name(dtype));
        Paged p(c, dtype);
        const int64_t ldq = c.heads * c.head_dim + 3, ld = c.kv_heads * c.head_dim + 2;
        const auto q = random_floats(p.tokens * ldq, 1, 2.0f), k = random_floats(p.tokens * ld, 2),
                   v = random_floats(p.tokens * ld, 3);
        auto expected = p.memory;
        std::swap(expected, p.memory);
        p.cache.base = p.memory.data();
        kv_write(p.cache, p.spans, k.data(), v.data(), ld);
        KvLayerView copy = p.cache;
        copy.base = expected.data();
        reference::kv_write(copy, p.spans, k.data(), v.data(), ld);
        ASSERT_EQ(p.memory, expected);
        std::vector<float> want(static_cast<size_t>(p.tokens * c.heads * c.head_dim));
        reference::attention_paged(shape_of(c), p.cache, p.spans, q.data(), ldq, want.data());
        const auto got = same_for_any_threads([&] {
          std::vector<float> y(want.size());
          attention_paged(shape_of(c), p.cache, p.spans, q.data(), ldq, y.data());
          return y;
        });
        EXPECT_LT(relative_error(got, want), tolerance(c));
      }
  });
}

TEST(Attention, ATokenHasTheSameBitsHoweverThePromptIsCut) {
  constexpr int64_t kTokens = 600;  // three chunks of keys
  for (const int64_t window : {0, 300}) {
    const Case c{6, 2, 32, window, {{0, kTokens}}};
    const int64_t ldq = c.heads * c.head_dim, ld = c.kv_heads * c.head_dim;
    const auto q = random_floats(kTokens * ldq, 1), k = random_floats(kTokens * ld, 2),
               v = random_floats(kTokens * ld, 3);
    on_every_isa([&] {
      Paged p(c, DType::kF32);
      std::vector<float> dense(kTokens * ldq);
      attention_dense(shape_of(c), p.spans, q.data(), ldq, k.data(), v.data(), ld, dense.data());
      for (const int64_t step : {1, 7, 250}) {
        std::vector<float> stepped(kTokens * ldq);
        for (int64_t t = 0; t < kTokens; t += step) {
          const SpanView span[] = {{0, std::min(step, kTokens - t), t, p.spans[0].pages}};
          kv_write(p.cache, span, k.data() + t * ld, v.data() + t * ld, ld);
          attention_paged(shape_of(c), p.cache, span, q.data() + t * ldq, ldq, stepped.data() + t * ldq);
        }
        EXPECT_TRUE(same_bits(stepped, dense)) << step << " tokens a step, window " << window;
      }
    });
  }
}

TEST(Attention, LargeScoresStayFinite) {
  const Case c{2, 1, 16, 0, {{0, 200}}};
  const Paged p(c, DType::kF32);
  const auto q = random_floats(200 * 32, 1, 1000.0f), k = random_floats(200 * 16, 2, 1000.0f),
             v = random_floats(200 * 16, 3);
  on_every_isa([&] {
    std::vector<float> y(200 * 32), want(200 * 32);
    reference::attention_dense(shape_of(c), p.spans, q.data(), 32, k.data(), v.data(), 16, want.data());
    attention_dense(shape_of(c), p.spans, q.data(), 32, k.data(), v.data(), 16, y.data());
    // Scores near 1e6 carry an absolute rounding error near 0.1, so only weights that are clearly apart
    // agree.
    for (const float value : y) ASSERT_TRUE(std::isfinite(value));
    EXPECT_LT(relative_error(y, want), 0.2);
  });
}

TEST(Attention, DenseRefusesSpansWithAPast) {
  const SpanView span[] = {{0, 1, 1, nullptr}};
  float x[4] = {};
  EXPECT_THROW(attention_dense({1, 1, 4, 1.0f, 0}, span, x, 4, x, x, 4, x), Error);
}

}  // namespace
}  // namespace awq
