// The invariant mode on whole models: logits of a token are bit for bit those it has when its sequence is read alone in one piece,
// whatever else the steps hold, however the prompt is cut, decoded or not, captured into a graph or not.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "device_testing.h"
#include "model/random_model.h"
#include "sequences.h"

namespace awq {
namespace {

using nlohmann::ordered_json;
using testing::config_of;
using testing::Sequences;

constexpr int kTokens = 300;

// Wide enough for products in parts.
ordered_json wide_config(const char* type, int heads, int kv_heads, int head_dim) {
  ordered_json config = config_of(type, heads, kv_heads, head_dim, 2);
  config["hidden_size"] = 1024, config["intermediate_size"] = 2048;
  return config;
}

std::shared_ptr<const Model> device_model(const ordered_json& config, const RandomWeights& weights, int head_bits, bool invariant) {
  LoadOptions options;
  options.head_bits = head_bits, options.device = Device::kCuda, options.invariant = invariant;
  return random_model(config, "test", weights, options);
}

// Logits of the first sequence's tokens as they come, against those of reading it alone in one piece.
class Comparison {
 public:
  explicit Comparison(const Model& model, DType cache = DType::kF32)
      : model_(model), cache_(cache), vocab_(static_cast<size_t>(model.config().vocab)) {
    want_ = sequences(1).step({kTokens});
  }
  Sequences sequences(int count) const { return {model_, count, cache_}; }
  int64_t differing() const { return differing_; }  // tokens so far
  const float* want(int64_t position) const { return want_.data() + static_cast<size_t>(position) * vocab_; }

  // A step of `tokens` tokens of the sequences; how: for what is said of the first differences.
  void step(Sequences& s, const std::vector<int>& tokens, const std::string& how) {
    const int64_t past = s.past[0];
    const std::vector<float> logits = s.step(tokens);
    for (int t = 0; t < tokens[0]; ++t) compare(logits.data() + static_cast<size_t>(t) * vocab_, past + t, how);
  }
  void compare(const float* got, int64_t position, const std::string& how) {
    const float* want = this->want(position);
    size_t first = vocab_, count = 0;
    for (size_t i = 0; i < vocab_; ++i)
      if (std::memcmp(got + i, want + i, sizeof(float)) != 0) first = std::min(first, i), ++count;
    if (count == 0) return;
    if (said_.size() < 6)
      said_.push_back(fmt::format("{}: token {}: {} of {} logits differ, first that of {}: {} against {}", how, position, count, vocab_, first,
                                  got[first], want[first]));
    ++differing_;
  }
  std::string said() const { return fmt::format("{}", fmt::join(said_, "\n")); }
  const Model& model() const { return model_; }

 private:
  const Model& model_;
  DType cache_;
  size_t vocab_;
  std::vector<float> want_;
  std::vector<std::string> said_;
  int64_t differing_ = 0;
};

void read_alone(Comparison& c, int chunk) {
  Sequences s = c.sequences(1);
  for (int past = 0; past < kTokens; past += chunk) c.step(s, {std::min(chunk, kTokens - past)}, fmt::format("alone in chunks of {}", chunk));
}

// Beside others of other lengths: prompts together, decoding (plain, captured, replayed), a chunk beside decoding ones, decoding again.
void read_in_batch(Comparison& c, int count) {
  Sequences s = c.sequences(count);
  std::vector<int> tokens(static_cast<size_t>(count));
  const auto set = [&](int first, const auto& other) {
    for (int i = 0; i < count; ++i) tokens[static_cast<size_t>(i)] = i == 0 ? first : other(i);
  };
  set(190, [](int i) { return 17 * i % 90 + 1; });
  c.step(s, tokens, fmt::format("prompts of a batch of {}", count));
  set(1, [](int) { return 1; });
  for (int i = 0; i < 12; ++i) c.step(s, tokens, fmt::format("decoded in a batch of {}, step {}", count, i));
  set(40, [](int i) { return i % 3 == 0 ? 5 : 1; });
  c.step(s, tokens, fmt::format("a chunk beside decoding, batch of {}", count));
  set(1, [](int) { return 1; });
  for (int i = 0; i < 4; ++i) c.step(s, tokens, fmt::format("decoded again in a batch of {}, step {}", count, i));
  set(1, [](int i) { return i % 2; });
  for (int i = 0; i < 3; ++i) c.step(s, tokens, fmt::format("decoded beside half a batch of {}, step {}", count, i));
}

// The device's own choice of the next token.
void choose_greedily(Comparison& c, int count) {
  Sequences s = c.sequences(count);
  s.step(std::vector<int>(static_cast<size_t>(count), 50));
  const int64_t vocab = c.model().config().vocab;
  for (int i = 0; i < 4; ++i) {
    s.prepare(std::vector<int>(static_cast<size_t>(count), 1));
    std::vector<int32_t> next(static_cast<size_t>(count));
    c.model().device()->greedy({s.ids, s.positions, s.spans}, s.cache.device(), next.data());
    const float* row = c.want(s.past[0]);
    EXPECT_EQ(next[0], std::max_element(row, row + vocab) - row) << "greedy in a batch of " << count << ", step " << i;
    for (int64_t& past : s.past) ++past;
  }
}

void read_without_cache(Comparison& c) {
  Sequences s(c.model(), 1);
  s.prepare({kTokens});
  c.model().forward({s.ids, s.positions, s.spans}, nullptr, s.scratch, s.hidden);
  std::vector<float> logits(static_cast<size_t>(kTokens * c.model().config().vocab));
  c.model().logits(s.hidden.data(), kTokens, logits.data());
  for (int t = 0; t < kTokens; ++t) c.compare(logits.data() + t * c.model().config().vocab, t, "without a cache");
}

void expect_invariant(const ordered_json& config, RandomWeights weights, int head_bits, DType cache = DType::kF32) {
  for (const DType dense : {DType::kF16, DType::kBF16}) {
    SCOPED_TRACE(dense == DType::kF16 ? "fp16" : "bf16");
    weights.dense = dense;
    const auto model = device_model(config, weights, head_bits, true);
    Comparison c(*model, cache);
    for (const int chunk : {1, 7, 64}) read_alone(c, chunk);
    for (const int count : {2, 3, 9, 16, 33}) read_in_batch(c, count);
    if (cache != DType::kI8) read_without_cache(c);  // those are 16 bits
    EXPECT_EQ(c.differing(), 0) << c.said();
    for (const int count : {1, 3, 17}) choose_greedily(c, count);
  }
}

TEST(DeviceInvariantModel, FourBits) {
  SKIP_WITHOUT_GPU();
  expect_invariant(wide_config("llama", 8, 2, 128), {.bits = 4, .group = 128}, 0);
}
TEST(DeviceInvariantModel, FourBitsSmallWithA4BitHead) {
  SKIP_WITHOUT_GPU();
  expect_invariant(config_of("llama", 4, 2, 64), {.bits = 4, .group = 64}, 4);
}
TEST(DeviceInvariantModel, EightBitsAndNf4) {
  SKIP_WITHOUT_GPU();
  expect_invariant(wide_config("llama", 8, 2, 128), {.bits = 8, .group = 128}, 0);
  expect_invariant(wide_config("llama", 8, 2, 64), {.bits = 4, .code = CodeKind::kNf4}, 0);
}
TEST(DeviceInvariantModel, SixteenBits) {
  SKIP_WITHOUT_GPU();
  expect_invariant(wide_config("llama", 8, 2, 64), {.bits = 16}, 0);
}
TEST(DeviceInvariantModel, EightBitHeadAndHeadNorms) {
  SKIP_WITHOUT_GPU();
  expect_invariant(config_of("qwen3", 6, 2, 96), {.bits = 4, .group = 32}, 8);
}
TEST(DeviceInvariantModel, Int8ActivationsAndBiases) {
  SKIP_WITHOUT_GPU();
  expect_invariant(config_of("llama", 4, 2, 64), {.bits = 8, .int8_activations = true}, 0);
  expect_invariant(config_of("qwen2", 4, 4, 64), {.bits = 8, .int8_activations = true}, 8);
}
TEST(DeviceInvariantModel, SlidingWindow) {
  SKIP_WITHOUT_GPU();
  ordered_json config = config_of("mistral", 4, 2, 128);
  config["sliding_window"] = 140;
  expect_invariant(config, {.bits = 4, .group = 128}, 0);
}

TEST(DeviceInvariantModel, EightBitCache) {
  SKIP_WITHOUT_GPU();
  expect_invariant(wide_config("llama", 8, 2, 128), {.bits = 4, .group = 128}, 0, DType::kI8);
}

// The tests above can see something: without the mode tokens do depend on their company.
TEST(DeviceInvariantModel, WithoutTheModeLogitsDiffer) {
  SKIP_WITHOUT_GPU();
  for (const int bits : {4, 16}) {
    const auto model = device_model(wide_config("llama", 8, 2, 128), {.bits = bits, .group = 128, .dense = DType::kBF16}, 0, false);
    Comparison alone(*model), batch(*model);
    read_alone(alone, 1);
    read_in_batch(batch, 9);
    fmt::print("without the mode, {} bits: of 300 tokens read one by one {} differ, of 250 in a batch of 9 {}\n", bits, alone.differing(),
               batch.differing());
    EXPECT_GT(alone.differing(), 0);
    EXPECT_GT(batch.differing(), 0);
  }
}

}  // namespace
}  // namespace awq
