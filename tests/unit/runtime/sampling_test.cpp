#include "runtime/sampling.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace awq {
namespace {

using Json = nlohmann::json;

int32_t draw(const SamplingParams& params, std::vector<float> logits, std::vector<int32_t> seen = {}) {
  Sampler sampler(params, static_cast<int64_t>(logits.size()));
  sampler.accept_prompt(seen);
  return sampler.draw(logits);
}

// How often each token comes in n draws.
std::vector<int> count(const SamplingParams& params, const std::vector<float>& logits, int n,
                       const std::vector<int32_t>& seen = {}) {
  Sampler sampler(params, static_cast<int64_t>(logits.size()));
  sampler.accept_prompt(seen);
  std::vector<int> counts(logits.size());
  for (int i = 0; i < n; ++i) {
    std::vector<float> copy = logits;
    ++counts[static_cast<size_t>(sampler.draw(copy))];
  }
  return counts;
}

TEST(Greedy, LargestLogitLowestIdOnTies) {
  EXPECT_EQ(draw({}, {1, 3, 2}), 1);
  EXPECT_EQ(draw({}, {1, 3, 3, 3}), 1);
  EXPECT_EQ(draw({}, {-INFINITY, -5, -INFINITY}), 1);
  EXPECT_EQ(draw({}, {-2, -1}), 1);
}

TEST(Greedy, PenaltyLowersPositiveAndNegativeLogits) {
  SamplingParams p;
  p.repetition_penalty = 2;
  EXPECT_EQ(draw(p, {3, 2}, {0}), 1);      // 1.5 against 2
  EXPECT_EQ(draw(p, {-1, -1.5}, {0}), 1);  // -2 against -1.5
  EXPECT_EQ(draw(p, {3, 1}, {0}), 0);      // 1.5 against 1
  EXPECT_EQ(draw(p, {3, 1}, {0, 0, 0}), 0) << "a token seen thrice is penalised once";
}

TEST(Sampler, TokensDrawnCountOnceAccepted) {
  SamplingParams p;
  p.repetition_penalty = 4;
  Sampler sampler(p, 3);
  std::vector<int32_t> drawn;
  for (int i = 0; i < 3; ++i) {
    std::vector<float> logits = {3, 2, 1};
    drawn.push_back(sampler.draw(logits));
    sampler.accept(drawn.back());
  }
  EXPECT_EQ(drawn, (std::vector<int32_t>{0, 1, 2}));
}

TEST(Greedy, BiasesAndPenaltiesOnWhatWasGenerated) {
  SamplingParams p;
  p.logit_bias = {{2, 5}, {0, -100}};
  EXPECT_EQ(draw(p, {9, 3, 1}), 2);
  p = {};
  p.presence_penalty = 1.5;
  EXPECT_EQ(draw(p, {3, 2}, {0}), 0) << "the prompt does not count";
  const auto after = [](const SamplingParams& params, std::vector<float> logits,
                        const std::vector<int32_t>& generated) {
    Sampler sampler(params, static_cast<int64_t>(logits.size()));
    for (const int32_t id : generated) sampler.accept(id);
    return sampler.draw(logits);
  };
  EXPECT_EQ(after(p, {3, 2}, {0}), 1);
  EXPECT_EQ(after(p, {4, 2}, {0, 0, 0}), 0) << "once, however often";
  p = {};
  p.frequency_penalty = 0.5;
  EXPECT_EQ(after(p, {3, 2}, {0}), 0);
  EXPECT_EQ(after(p, {3, 2}, {0, 0, 0}), 1);
  p.frequency_penalty = -0.5;
  EXPECT_EQ(after(p, {2, 3}, {0, 0, 0}), 0);
}

TEST(Sampler, TiesAtTheEdgeGoToTheLowestId) {
  SamplingParams p;
  p.temperature = 1;
  p.top_k = 2;
  std::vector<int> counts = count(p, {1, 2, 1, 1}, 500);
  EXPECT_GT(counts[0], 0);
  EXPECT_GT(counts[1], 0);
  EXPECT_EQ(counts[2] + counts[3], 0);
  p.top_k = 0;
  p.top_p = 0.5;  // four equal ones: two reach a half
  counts = count(p, {1, 1, 1, 1}, 500);
  EXPECT_GT(counts[0], 0);
  EXPECT_GT(counts[1], 0);
  EXPECT_EQ(counts[2] + counts[3], 0);
}

TEST(Sampler, ExcludedTokensNeverCome) {
  SamplingParams p;
  p.temperature = 50;
  for (const float top_p : {1.0f, 0.9f}) {
    p.top_p = top_p;
    const std::vector<int> counts = count(p, {0, -INFINITY, 0, -INFINITY}, 300);
    EXPECT_EQ(counts[1] + counts[3], 0);
    EXPECT_GT(counts[0], 50);
    EXPECT_GT(counts[2], 50);
  }
}

TEST(Sampler, ExtremeTemperaturesStayFinite) {
  SamplingParams p;
  p.temperature = 1e-6f;
  EXPECT_EQ(draw(p, {80, 100, -100}), 1);
  p.temperature = std::numeric_limits<float>::denorm_min();
  EXPECT_EQ(draw(p, {80, 100, -100}), 1);
  p.temperature = 1e30f;
  const std::vector<int> counts = count(p, {80, 100}, 400);
  EXPECT_NEAR(counts[0], 200, 60);
}

TEST(Sampler, SeedDecidesAlone) {
  SamplingParams p;
  p.temperature = 1;
  p.seed = 11;
  const std::vector<float> logits(50, 0.0f);
  const auto run = [&] {
    Sampler sampler(p, 50);
    std::vector<int32_t> ids;
    for (int i = 0; i < 40; ++i) {
      std::vector<float> copy = logits;
      ids.push_back(sampler.draw(copy));
    }
    return ids;
  };
  const auto first = run();
  EXPECT_EQ(run(), first);
  p.top_k = 50;
  EXPECT_EQ(run(), first) << "a top-k of the whole vocabulary changes nothing";
  p.seed = 12;
  EXPECT_NE(run(), first);
}

TEST(Uniform, IsUniformAndSeedsAreUnrelated) {
  constexpr int kDraws = 20000, kBins = 20;
  std::vector<int> bins(kBins);
  double product = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double u = uniform_at(3, static_cast<uint64_t>(i)), v = uniform_at(4, static_cast<uint64_t>(i));
    ASSERT_GE(u, 0);
    ASSERT_LT(u, 1);
    ++bins[static_cast<size_t>(u * kBins)];
    product += (u - 0.5) * (v - 0.5);
    ASSERT_NE(u, uniform_at(4, static_cast<uint64_t>(i) - 1)) << "shifted copies of one sequence";
  }
  double chi2 = 0;
  for (const int n : bins) chi2 += (n - kDraws / kBins) * (n - kDraws / kBins) / (1.0 * kDraws / kBins);
  EXPECT_LT(chi2, 43.8);  // 19 degrees of freedom, 1 in 1000
  EXPECT_LT(std::abs(product / kDraws) * 12, 4 / std::sqrt(kDraws));
}

// The probabilities transformers would draw with; see tests/oracle/record_sampling.py.
TEST(Sampler, DrawsWithTheProbabilitiesOfTransformers) {
  std::ifstream in(std::string(AWQ_TEST_DATA) + "/runtime/sampling.json");
  const Json recorded = Json::parse(in);
  EXPECT_GE(recorded["cases"].size(), 14u);
  constexpr int kDraws = 20000;
  for (const Json& c : recorded["cases"]) {
    const Json& s = c["settings"];
    SCOPED_TRACE(s.dump());
    SamplingParams p;
    p.temperature = s.value("temperature", 1.0f);
    p.top_k = s.value("top_k", 0);
    p.top_p = s.value("top_p", 1.0f);
    p.min_p = s.value("min_p", 0.0f);
    p.repetition_penalty = s.value("repetition_penalty", 1.0f);
    p.seed = 5;
    const auto counts =
        count(p, c["logits"].get<std::vector<float>>(), kDraws, c["seen"].get<std::vector<int32_t>>());
    const auto want = c["probabilities"].get<std::vector<double>>();
    for (size_t id = 0; id < want.size(); ++id) {
      const double expected = want[id] * kDraws;
      if (want[id] == 0) {
        EXPECT_EQ(counts[id], 0) << "token " << id << " may not come";
      }
      EXPECT_NEAR(counts[id], expected, 4.5 * std::sqrt(expected * (1 - want[id])) + 3) << "token " << id;
      if (expected > 40) {
        EXPECT_GT(counts[id], 0) << "token " << id << " must come";
      }
    }
  }
}

TEST(Sampler, WrongSettingsAreNamed) {
  struct Case {
    SamplingParams params;
    const char* message;
  };
  const float nan = std::nanf("");
  const Case cases[] = {
      {{.temperature = -1}, "temperature: expected 0 or more, got -1"},
      {{.temperature = nan}, "temperature: expected 0 or more, got nan"},
      {{.top_k = -2}, "top_k: expected 0 or more, got -2"},
      {{.top_p = 0}, "top_p: expected a number above 0 and up to 1, got 0"},
      {{.top_p = 1.5}, "top_p: expected a number above 0 and up to 1, got 1.5"},
      {{.top_p = nan}, "top_p: expected a number above 0 and up to 1, got nan"},
      {{.min_p = 2}, "min_p: expected a number from 0 to 1, got 2"},
      {{.repetition_penalty = 0}, "repetition_penalty: expected a number above 0, got 0"},
      {{.presence_penalty = 2.5}, "presence_penalty: expected a number from -2 to 2, got 2.5"},
      {{.frequency_penalty = nan}, "frequency_penalty: expected a number from -2 to 2, got nan"},
      {{.logit_bias = {{0, 101.0f}}}, "logit_bias: expected numbers from -100 to 100, got 101"},
  };
  for (const Case& c : cases) {
    try {
      check_sampling(c.params);
      ADD_FAILURE() << "accepted: " << c.message;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), Code::kBadArgument);
      EXPECT_STREQ(e.what(), c.message);
    }
  }
}

TEST(Sampler, LogitsThatAreNoNumbersAreAnError) {
  for (const float temperature : {0.0f, 1.0f}) {
    SamplingParams p;
    p.temperature = temperature;
    EXPECT_THROW(draw(p, {1, std::nanf(""), 2}), Error);
    EXPECT_THROW(draw(p, {std::nanf(""), 1, 2}), Error);
    EXPECT_THROW(draw(p, {-INFINITY, -INFINITY}), Error);
    EXPECT_THROW(draw(p, {1, INFINITY}), Error);
  }
}

}  // namespace
}  // namespace awq
