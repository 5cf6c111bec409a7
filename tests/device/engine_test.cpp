// The engine on the GPU: tokens drawn there are those that the host draws from the same steps' logits.
#include "runtime/engine.h"

#include <fmt/core.h>

#include "device_testing.h"
#include "model/random_model.h"
#include "sequences.h"

namespace awq {
namespace {

using testing::config_of;

std::shared_ptr<const Model> device_model(bool invariant = false) {
  LoadOptions options;
  options.device = Device::kCuda;
  options.invariant = invariant;
  return random_model(config_of("llama", 4, 2, 64), "test", {.bits = 4, .group = 64}, options);
}

std::vector<int32_t> made_up(size_t first, size_t size) {
  std::vector<int32_t> ids;
  for (size_t i = 0; i < size; ++i) ids.push_back(static_cast<int32_t>((first * 131 + i * 37 + 5) % 1000));
  return ids;
}

SamplingParams params_of(size_t kind) {
  SamplingParams p;
  p.seed = 40 + kind;
  if (kind == 0) return p;
  p.temperature = kind % 2 == 0 ? 0.7f : 1.2f;
  if (kind == 2) p.top_k = 40;
  if (kind == 3) p.top_p = 0.9f, p.repetition_penalty = 1.2f;
  if (kind == 4) p.top_k = 200, p.top_p = 0.8f, p.logit_bias = {{7, 3}, {500, -2}};
  if (kind == 5) p.min_p = 0.02f, p.presence_penalty = 0.4f, p.frequency_penalty = 0.3f;
  return p;
}

// on_host: somebody looks at all logits and changes nothing.
std::vector<std::vector<int32_t>> texts(const std::shared_ptr<const Model>& model, bool on_host, EngineOptions options) {
  options.kv_pages = 200, options.max_batch_tokens = 64, options.max_sequences = 9;
  Engine engine(model, options);
  std::vector<std::vector<int32_t>> out(12);
  for (size_t i = 0; i < out.size(); ++i) {
    Request r;
    r.prompt = made_up(i % 5, 3 + i * 9);
    r.max_tokens = 40;
    r.ignore_eos = true;
    r.sampling = params_of(i % 6);
    r.on_token = [&out, i](const TokenEvent& e) {
      out[i].push_back(e.token);
      return true;
    };
    r.on_finish = [i](const FinishEvent& e) { EXPECT_EQ(e.reason, FinishReason::kLength) << i << ": " << e.error; };
    if (on_host) r.make_constraint = [](int32_t) { return [](std::span<const int32_t>, std::span<float>) {}; };
    engine.add(std::move(r));
  }
  engine.run_until_idle();
  return out;
}

TEST(DeviceEngine, DrawsTheTokensThatTheHostDraws) {
  SKIP_WITHOUT_GPU();
  const auto model = device_model();
  EXPECT_EQ(texts(model, false, {}), texts(model, true, {}));
}

TEST(DeviceEngine, DrawsAndChecksGuesses) {
  SKIP_WITHOUT_GPU();
  const auto model = device_model();
  const EngineOptions from_text{.draft_tokens = 3}, from_model{.draft_tokens = 3, .draft_model = model};
  EXPECT_EQ(texts(model, false, from_text), texts(model, true, from_text));
  EXPECT_EQ(texts(model, false, from_model), texts(model, true, from_model));
}

// With --invariant a text does not depend on guesses either.
TEST(DeviceEngine, InvariantTextsAreTheSameWithGuesses) {
  SKIP_WITHOUT_GPU();
  const auto model = device_model(true);
  const auto want = texts(model, true, {});
  EXPECT_EQ(texts(model, false, {}), want);
  EXPECT_EQ(texts(model, false, {.draft_tokens = 3}), want);
}

// Pages of 8 bits are found again by their tokens, and counted by their size.
TEST(DeviceEngine, EightBitCacheSharesPrefixes) {
  SKIP_WITHOUT_GPU();
  const auto model = device_model(true);
  const EngineOptions shared{.kv_dtype = DType::kI8}, apart{.kv_dtype = DType::kI8, .share_prefixes = false};
  EXPECT_EQ(texts(model, false, shared), texts(model, false, apart));
  const int64_t page = KvCache::page_bytes(*model, DType::kI8);
  EXPECT_EQ(Engine(model, {.kv_dtype = DType::kI8, .kv_bytes = 5 * page + page / 2}).stats().pages, 5);
}

// Rows in any order, twice, or in the middle of a prompt: the bits that `logits` gives.
TEST(DeviceEngine, RowsThatAreNotDrawnComeBack) {
  SKIP_WITHOUT_GPU();
  const auto model = device_model();
  testing::Sequences sequences(*model, 3);
  for (const std::vector<int>& step : {std::vector<int>{20, 1, 33}, {1, 1, 1}, {1, 1, 1}, {1, 1, 1}}) {
    sequences.prepare(step);
    const BatchView batch{sequences.ids, sequences.positions, sequences.spans};
    const auto last = static_cast<int64_t>(sequences.ids.size()) - 1;
    States states;
    DrawnRows got;
    for (const std::vector<int64_t>& rows : {std::vector<int64_t>{last, 0, 1, 1}, {0, 1, 2}, {1, 2}, {last}}) {
      model->forward(batch, &sequences.cache, sequences.scratch, states);
      std::vector<RowDraw> asked;
      for (const int64_t row : rows) asked.push_back({.row = row});
      model->draw(states, asked, got);
      model->forward(batch, &sequences.cache, sequences.scratch, sequences.hidden);
      std::vector<float> hidden, want(rows.size() * 1000);
      const auto begin = sequences.hidden.begin();
      for (const int64_t row : rows) hidden.insert(hidden.end(), begin + row * 256, begin + (row + 1) * 256);
      model->logits(hidden.data(), static_cast<int64_t>(rows.size()), want.data());
      EXPECT_EQ(got.tokens, std::vector<int32_t>(rows.size(), -1));
      EXPECT_TRUE(testing::same_bits(want, {got.logits.begin(), got.logits.begin() + static_cast<int64_t>(want.size())}));
    }
    for (size_t s = 0; s < step.size(); ++s) sequences.past[s] += step[s];
  }
}

}  // namespace
}  // namespace awq
