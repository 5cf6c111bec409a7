// A decoding step allocates nothing once its buffers have grown: every call of operator new is counted.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>
#include <nlohmann/json.hpp>

#include "base/thread_pool.h"
#include "model/random_model.h"

// g++ 12 sees only one half of a replaced pair at a time.
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"

namespace {
std::atomic<int64_t> allocations{0};
void* counted(std::size_t n, std::size_t alignment) {
  ++allocations;
  void* p = alignment > alignof(std::max_align_t)
                ? std::aligned_alloc(alignment, (n + alignment - 1) / alignment * alignment)
                : std::malloc(n ? n : 1);
  if (p == nullptr) throw std::bad_alloc();
  return p;
}
}  // namespace

void* operator new(std::size_t n) { return counted(n, 0); }
void* operator new[](std::size_t n) { return counted(n, 0); }
void* operator new(std::size_t n, std::align_val_t a) { return counted(n, static_cast<std::size_t>(a)); }
void* operator new[](std::size_t n, std::align_val_t a) { return counted(n, static_cast<std::size_t>(a)); }
void operator delete(void* p) noexcept { std::free(p); }
void operator delete[](void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }
void operator delete[](void* p, std::size_t) noexcept { std::free(p); }
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete[](void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }
void operator delete[](void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }

namespace awq {
namespace {

const nlohmann::ordered_json kConfig = {{"model_type", "llama"},    {"hidden_size", 128},
                                        {"intermediate_size", 192}, {"num_hidden_layers", 2},
                                        {"num_attention_heads", 4}, {"num_key_value_heads", 2},
                                        {"vocab_size", 300},        {"max_position_embeddings", 4096},
                                        {"rms_norm_eps", 1e-5},     {"tie_word_embeddings", true},
                                        {"hidden_act", "silu"}};

struct Decoder {
  explicit Decoder(const Model& m) : model(m), cache(m.config(), 2 * kPages, DType::kF16) {
    for (int32_t i = 0; i < 2 * kPages; ++i) pages.push_back(i);
    logits.resize(2 * static_cast<size_t>(m.config().vocab));
  }
  // One token for each of two sequences that have `past` already.
  void step(int64_t past) {
    const int32_t tokens[] = {static_cast<int32_t>(past % 300), 7},
                  positions[] = {static_cast<int32_t>(past), static_cast<int32_t>(past)};
    const SpanView spans[] = {{0, 1, past, pages.data()}, {1, 1, past, pages.data() + kPages}};
    model.forward({tokens, positions, spans}, &cache, scratch, hidden);
    model.logits(hidden.data(), 2, logits.data());
  }
  static constexpr int64_t kPages = 100;
  const Model& model;
  KvCache cache;
  std::vector<int32_t> pages;
  Scratch scratch;
  std::vector<float> hidden, logits;
};

TEST(Allocation, NoneInADecodingStepAfterWarmUp) {
  const int before = threads();
  for (const int count : {1, 2})
    for (const Precision precision : {Precision::kFast, Precision::kExact})
      for (const int bits : {4, 16}) {
        set_threads(count);
        LoadOptions options{precision, nullptr};
        options.head_bits = 8;
        const auto model = random_model(kConfig, "config", {.bits = bits, .group = 64}, options);
        Decoder run(*model);
        for (int64_t past = 0; past < 40; ++past) run.step(past);
        const int64_t start = allocations;
        for (int64_t past = 40; past < 120; ++past) run.step(past);
        // A worker that took no tile of some kind so far may still get its buffer for it.
        EXPECT_LE(allocations - start, count == 1 ? 0 : 8) << bits << " bits, " << count << " threads";
      }
  set_threads(before);
}

TEST(RandomModel, TheHeadGivesTheEmbeddingOfATiedModel) {
  LoadOptions options{Precision::kFast, nullptr};
  const auto plain = random_model(kConfig, "config", {.bits = 4, .group = 64}, options);
  options.head_bits = 8;
  const auto rounded = random_model(kConfig, "config", {.bits = 4, .group = 64}, options);
  EXPECT_LT(rounded->bytes(), plain->bytes());
  std::vector<float> want, got;
  Scratch scratch;
  const int32_t tokens[] = {299, 0, 17}, positions[] = {0, 1, 2};
  const SpanView spans[] = {{0, 3, 0, nullptr}};
  plain->forward({tokens, positions, spans}, nullptr, scratch, want);
  rounded->forward({tokens, positions, spans}, nullptr, scratch, got);
  for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got[i], want[i], 0.1f);
  const int32_t outside[] = {300, 0, 0};
  EXPECT_THROW(rounded->forward({outside, positions, spans}, nullptr, scratch, got), Error);
}

TEST(RandomModel, SameBitsForAnyBatchAndNumberOfThreads) {
  const int before = threads();
  LoadOptions options{Precision::kFast, nullptr};
  options.head_bits = 8;
  const auto model = random_model(kConfig, "config", {.bits = 4, .group = 64}, options);
  const auto logits_of = [&](int count,
                             int64_t sequences) {  // of the first sequence, after three tokens each
    set_threads(count);
    KvCache cache(model->config(), sequences, DType::kF16);
    std::vector<int32_t> pages, tokens, positions;
    std::vector<SpanView> spans;
    for (int64_t s = 0; s < sequences; ++s) pages.push_back(static_cast<int32_t>(s));
    Scratch scratch;
    std::vector<float> hidden, logits(static_cast<size_t>(model->config().vocab));
    for (int32_t past = 0; past < 3; ++past) {
      tokens.clear(), positions.clear(), spans.clear();
      for (int64_t s = 0; s < sequences; ++s) {
        spans.push_back({s, 1, past, pages.data() + s});
        tokens.push_back(static_cast<int32_t>((37 * s + 11 * past) % 300));
        positions.push_back(past);
      }
      model->forward({tokens, positions, spans}, &cache, scratch, hidden);
    }
    model->logits(hidden.data(), 1, logits.data());
    return logits;
  };
  const auto one = logits_of(1, 1);
  for (const int count : {1, 2, 3})
    for (const int64_t sequences : {1, 2, 9, 40})
      EXPECT_EQ(logits_of(count, sequences), one) << count << ' ' << sequences;
  set_threads(before);
}

}  // namespace
}  // namespace awq
