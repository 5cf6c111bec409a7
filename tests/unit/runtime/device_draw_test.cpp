// The engine over a model that draws where its logits are: a stand-in for a device, which answers some rows with tokens and leaves
// others, as one may.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "runtime/engine.h"
#include "unit/runtime/engine_fixture.h"

namespace awq::testing {
namespace {

// The draw that `r` describes, by the book: -1 without an answer.
int32_t drawn_by_hand(const RowDraw& r, std::vector<float> logits) {
  for (const auto& [id, value] : r.added) logits[static_cast<size_t>(id)] += value;
  for (const int32_t id : r.seen) {
    float& x = logits[static_cast<size_t>(id)];
    x = x < 0 ? x * r.repetition_penalty : x / r.repetition_penalty;
  }
  for (const auto& [id, value] : r.subtracted) logits[static_cast<size_t>(id)] -= value;
  std::vector<int32_t> ids;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i])) return -1;
    if (logits[i] != -INFINITY) ids.push_back(static_cast<int32_t>(i));
  }
  const auto logit = [&](int32_t id) { return logits[static_cast<size_t>(id)]; };
  std::stable_sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) { return logit(a) > logit(b); });
  if (ids.empty() || !std::isfinite(logit(ids[0]))) return -1;
  if (r.temperature == 0) return ids[0];
  if (r.top_k > 0) ids.resize(std::min(ids.size(), static_cast<size_t>(r.top_k)));
  const double top = logit(ids[0]);
  const auto weight = [&](int32_t id) { return std::exp((logit(id) - top) / static_cast<double>(r.temperature)); };
  long double all = 0, before = 0;
  for (const int32_t id : ids) all += weight(id);
  const auto falls = [&](int32_t id) {
    const bool reached = before > 0 && before >= r.top_p * all && r.top_p < 1;
    before += weight(id);
    return reached || weight(id) < r.min_p;
  };
  std::erase_if(ids, falls);
  std::sort(ids.begin(), ids.end());
  long double stay = 0, sum = 0;
  for (const int32_t id : ids) stay += weight(id);
  for (const int32_t id : ids)
    if ((sum += weight(id)) > r.uniform * stay) return id;
  return ids.back();
}

// Runs on the CPU. Of the rows it may draw it leaves every `leaves`-th; after the token `poison` all logits are NaN.
class StandIn : public DeviceModel {
 public:
  StandIn(std::shared_ptr<const Model> cpu, int64_t leaves, int32_t poison = -1) : cpu_(std::move(cpu)), leaves_(leaves), poison_(poison) {}
  void add_block(const BlockSpec&, const BlockWeights&) override {}
  void finish(const Tensor&, const Tensor&, int) override {}
  std::shared_ptr<void> make_cache(int64_t pages, DType) const override {
    return std::make_shared<KvCache>(cpu_->config(), pages, DType::kF32);
  }
  int64_t page_bytes(DType) const override { return KvCache::page_bytes(cpu_->config(), DType::kF32); }
  void forward(const BatchView&, void*, float*) const override { FAIL() << "states are to stay"; }
  void forward(const BatchView& batch, void* cache, std::shared_ptr<void>& states) const override {
    if (!states) states = std::make_shared<States>();
    auto& kept = *static_cast<States*>(states.get());
    Scratch scratch;
    cpu_->forward(batch, static_cast<const KvCache*>(cache), scratch, kept);
    const int64_t dim = cpu_->config().hidden;
    for (size_t i = 0; i < batch.tokens.size(); ++i)
      if (batch.tokens[i] == poison_) std::fill_n(kept.host.begin() + static_cast<int64_t>(i) * dim, dim, NAN);
  }
  void draw(const void* states, std::span<const RowDraw> rows, DrawnRows& out) const override {
    DrawnRows all;
    cpu_->draw(*static_cast<const States*>(states), rows, all);
    const int64_t vocab = cpu_->config().vocab;
    out.tokens.assign(rows.size(), -1);
    out.logits.clear();
    for (size_t i = 0; i < rows.size(); ++i) {
      const auto first = all.logits.begin() + static_cast<int64_t>(i) * vocab;
      const std::vector<float> line(first, first + vocab);
      if (rows[i].draws && ++asked % leaves_ != 0) out.tokens[i] = drawn_by_hand(rows[i], line);
      if (out.tokens[i] < 0) out.logits.insert(out.logits.end(), line.begin(), line.end());
      ++(out.tokens[i] < 0 ? fetched : drawn);
    }
  }
  void logits(const float*, int64_t, float*) const override { FAIL() << "logits are to stay"; }
  void greedy(const BatchView&, void*, int32_t*) const override { FAIL(); }
  int64_t bytes() const override { return 0; }
  int64_t decode_bytes() const override { return 0; }
  std::map<std::string, int64_t> kernels() const override { return {}; }

  mutable int64_t asked = 0, drawn = 0, fetched = 0;

 private:
  std::shared_ptr<const Model> cpu_;
  int64_t leaves_;
  int32_t poison_;
};

std::shared_ptr<const Model> model_on(std::shared_ptr<const DeviceModel> device) {
  return std::make_shared<Model>(std::make_shared<const ModelConfig>(tiny_model()->config()), std::move(device));
}

SamplingParams params_of(size_t kind, uint64_t seed) {
  SamplingParams p;
  p.seed = seed;
  if (kind == 0) return p;
  p.temperature = 0.8f;
  if (kind == 2) p.top_k = 20, p.top_p = 0.9f;
  if (kind == 3) p.min_p = 0.05f, p.repetition_penalty = 1.3f;
  if (kind == 4) p.presence_penalty = 0.5f, p.frequency_penalty = 0.2f, p.logit_bias = {{3, 2}, {90, -5}};
  if (kind == 5) p.logit_bias = {{3, 2}, {3, -5}};
  return p;
}
constexpr size_t kKinds = 6;

struct Text {
  std::vector<int32_t> ids;
  FinishReason reason;
  std::string error;
  bool operator==(const Text&) const = default;
};

// Requests of every kind, two answers each.
std::vector<Text> texts(std::shared_ptr<const Model> model, EngineOptions options, const std::function<void(Request&)>& change = {}) {
  options.kv_pages = 60, options.max_batch_tokens = 16, options.max_sequences = 8;
  Engine engine(std::move(model), options);
  std::vector<Text> out(2 * kKinds);
  for (size_t i = 0; i < kKinds; ++i) {
    Request r;
    r.prompt = prompt(static_cast<int64_t>(i), 3 + static_cast<int64_t>(i) * 4);
    r.max_tokens = 24;
    r.ignore_eos = true;
    r.n = 2;
    r.sampling = params_of(i, 100 + i);
    r.on_token = [&out, i](const TokenEvent& e) {
      out[2 * i + static_cast<size_t>(e.choice)].ids.push_back(e.token);
      return true;
    };
    r.on_finish = [&out, i](const FinishEvent& e) {
      Text& text = out[2 * i + static_cast<size_t>(e.choice)];
      text.reason = e.reason, text.error = e.error;
    };
    if (change) change(r);
    engine.add(std::move(r));
  }
  engine.run_until_idle();
  return out;
}

TEST(DeviceDraw, TheEngineGeneratesWhatItDoesByItself) {
  const auto want = texts(tiny_model(), {});
  for (const int64_t leaves : {1, 2, 7, 1000000}) {
    const auto device = std::make_shared<StandIn>(tiny_model(), leaves);
    EXPECT_EQ(texts(model_on(device), {}), want) << "leaves every row of " << leaves;
    if (leaves > 7) {
      EXPECT_EQ(device->fetched, 2 * 24) << "those whose bias comes twice";
      EXPECT_EQ(device->drawn, static_cast<int64_t>(2 * 24 * (kKinds - 1)));
    }
  }
}

TEST(DeviceDraw, GuessesAreDrawnThereToo) {
  for (const bool with_model : {false, true}) {
    EngineOptions options{.draft_tokens = 4};
    if (with_model) options.draft_model = tiny_model();
    const auto want = texts(tiny_model(), options);
    if (with_model) options.draft_model = model_on(std::make_shared<StandIn>(tiny_model(), 3));
    EXPECT_EQ(texts(model_on(std::make_shared<StandIn>(tiny_model(), 5)), options), want);
  }
}

TEST(DeviceDraw, RowsThatSomebodyLooksAtAreFetched) {
  const auto odd = [](std::span<const int32_t>, std::span<float> logits) {
    for (size_t i = 0; i < logits.size(); i += 2) logits[i] = -INFINITY;
  };
  const std::function<void(Request&)> changes[] = {[](Request& r) { r.logprobs = 2; }, [&](Request& r) { r.adjust_logits = odd; },
                                                   [&](Request& r) { r.make_constraint = [&](int32_t) { return odd; }; },
                                                   [](Request& r) { r.prompt_logprobs = 0, r.max_tokens = 0; }};
  for (const auto& change : changes) {
    const auto device = std::make_shared<StandIn>(tiny_model(), 1000000);
    EXPECT_EQ(texts(model_on(device), {}, change), texts(tiny_model(), {}, change));
    EXPECT_EQ(device->drawn, 0);
    EXPECT_GT(device->fetched, 0);
  }
}

TEST(DeviceDraw, NaNEndsItsOwnRequest) {
  const std::vector<int32_t> good = prompt(0, 8);
  int32_t poison = 0;  // no token of the other text
  const auto by_hand = greedy_by_hand(*tiny_model(), good, 12);
  const auto holds = [&](const std::vector<int32_t>& ids) { return std::find(ids.begin(), ids.end(), poison) != ids.end(); };
  while (holds(good) || holds(by_hand)) ++poison;
  Engine engine(model_on(std::make_shared<StandIn>(tiny_model(), 1000000, poison)), {.kv_pages = 20});
  Result a, b;
  engine.add(request(good, 12, a));
  engine.add(request({5, poison}, 12, b));
  engine.run_until_idle();
  EXPECT_EQ(a.ids, by_hand);
  EXPECT_EQ(b.finish.reason, FinishReason::kError);
  EXPECT_EQ(b.finish.error, "the model's logits: expected numbers, got NaN for token 0");
  EXPECT_TRUE(b.ids.empty());
}

TEST(SamplerPlan, DescribesTheDraw) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal(0, 3);
  for (size_t kind = 0; kind + 1 < kKinds; ++kind) {
    Sampler sampler(params_of(kind, 7), 100);
    sampler.accept_prompt(std::vector<int32_t>{1, 5, 5, 99});
    for (int i = 0; i < 50; ++i) {
      std::vector<float> logits(100);
      for (float& x : logits) x = normal(random);
      const int32_t planned = drawn_by_hand(*sampler.plan(), logits);
      if (i % 2 == 0) {
        ASSERT_EQ(sampler.draw(logits), planned) << "kind " << kind << ", draw " << i;
      } else {
        sampler.count_draw();
      }
      sampler.accept(planned);
    }
  }
}

TEST(SamplerPlan, LooksAheadWhereTokensBetweenDoNotCount) {
  SamplingParams p;
  p.temperature = 1;
  p.seed = 9;
  Sampler sampler(p, 10);
  const double third = sampler.plan(2)->uniform;
  for (int i = 0; i < 2; ++i) sampler.count_draw();
  EXPECT_EQ(sampler.plan()->uniform, third);
  for (const size_t kind : {3, 4}) {
    Sampler penalised(params_of(kind, 1), 100);
    EXPECT_TRUE(penalised.plan());
    EXPECT_FALSE(penalised.plan(1));
  }
  EXPECT_FALSE(Sampler(params_of(5, 1), 100).plan()) << "one order of rounding is not another";
}

}  // namespace
}  // namespace awq::testing
