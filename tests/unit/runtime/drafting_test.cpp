// Guesses: what is guessed, and that the text stays what it is without.
#include "runtime/drafting.h"

#include <gtest/gtest.h>

#include <cmath>

#include "unit/runtime/engine_fixture.h"

namespace awq::testing {
namespace {

std::vector<int32_t> guess(PromptLookup& lookup, const std::vector<int32_t>& tokens, int64_t n) {
  std::vector<int32_t> out{42};
  lookup.guess(tokens, n, out);
  return out;
}

TEST(PromptLookup, WhatFollowedTheLastTokensLastTime) {
  using Ids = std::vector<int32_t>;
  const Ids text{1, 2, 3, 9, 8, 7, 2, 3, 5, 1, 2, 3};
  PromptLookup lookup;
  EXPECT_EQ(guess(lookup, text, 4), (Ids{9, 8, 7, 2})) << "three tokens, not the two that came later";
  Ids longer = text;
  longer.push_back(5);
  EXPECT_EQ(guess(lookup, longer, 3), (Ids{1, 2, 3})) << "of 2 3 5";
  longer.insert(longer.end(), {4, 2, 3});
  EXPECT_EQ(guess(lookup, longer, 2), (Ids{5, 4})) << "two tokens, of the last of three places";
  longer.push_back(100);
  EXPECT_EQ(guess(lookup, longer, 2), Ids{});
  EXPECT_EQ(guess(lookup, longer, 0), Ids{});
}

TEST(PromptLookup, NoMoreThanThereIs) {
  using Ids = std::vector<int32_t>;
  PromptLookup lookup;
  EXPECT_EQ(guess(lookup, {}, 4), Ids{});
  EXPECT_EQ(guess(lookup, {7}, 4), Ids{});
  EXPECT_EQ(guess(lookup, {7, 7}, 4), Ids{});
  EXPECT_EQ(guess(lookup, {7, 7, 7}, 4), Ids{7});
  EXPECT_EQ(guess(lookup, {7, 7, 7, 7, 7}, 4), Ids{7}) << "the last place has one token behind it";
}

TEST(DraftLength, GrowsWhileRightAndPausesLongerEachTime) {
  DraftLength length;
  EXPECT_EQ(length.next(15), 4);
  EXPECT_EQ(length.next(3), 3);
  length.learn(4, 4);
  EXPECT_EQ(length.next(15), 7);
  length.learn(7, 2);
  EXPECT_EQ(length.next(15), 3);
  for (const int64_t pause : {0, 1, 3, 7, 15, 31, 31}) {
    length.learn(2, 0);
    for (int64_t i = 0; i < pause; ++i) {
      EXPECT_EQ(length.next(15), 0) << pause;
      length.learn(0, 0);
    }
    EXPECT_EQ(length.next(15), 2) << pause;
  }
  length.learn(2, 2);
  length.learn(4, 0);
  EXPECT_EQ(length.next(15), 2) << "the count of misses starts again";
}

struct Heard {
  std::vector<TokenEvent> tokens;
  std::vector<double> logprobs;
  std::vector<FinishEvent> ends;
};

// Twelve requests that differ in everything that draws: greedy, sampled, penalised, stopped, constrained, several answers.
std::vector<Heard> run_all(const EngineOptions& options, EngineStats& stats) {
  Engine engine(tiny_model(), options);
  std::vector<Heard> heard(12);
  for (size_t i = 0; i < heard.size(); ++i) {
    Heard& h = heard[i];
    Request r;
    r.prompt = prompt(static_cast<int64_t>(3 * i), static_cast<int64_t>(4 + 2 * (i % 5)));
    r.prompt.insert(r.prompt.end(), r.prompt.begin(), r.prompt.end());  // something to look up
    r.max_tokens = static_cast<int64_t>(i % 4 == 3 ? 7 : 30);
    r.ignore_eos = true;
    r.sampling.seed = i;
    if (i % 3 == 1) r.sampling.temperature = 0.3f;
    if (i % 4 == 1) r.sampling.repetition_penalty = 1.2f;
    if (i % 5 == 2) r.sampling.frequency_penalty = 0.4f;
    if (i % 2 == 0) r.logprobs = 2;
    if (i == 4) r.n = 3;
    if (i == 5) r.stop_ids = {3, 17, 40, 41, 99};
    if (i == 7) r.prompt_logprobs = 0;
    if (i == 8 || i == 9)
      r.adjust_logits = [i](std::span<const int32_t> tokens, std::span<float> logits) {
        for (size_t t = 0; t < logits.size(); ++t)
          if ((t + tokens.size()) % 3 == 0) logits[t] = i == 8 ? -INFINITY : logits[t] + 1;
      };
    if (i == 10)
      r.make_constraint = [](int32_t) {
        return [](std::span<const int32_t> tokens, std::span<float> logits) {
          if (tokens.size() == 24) fail(Code::kBadArgument, "enough");
          logits[static_cast<size_t>(tokens.back())] = -INFINITY;
        };
      };
    r.on_token = [&h, i](const TokenEvent& e) {
      h.tokens.push_back(e);
      if (e.logprobs) h.logprobs.push_back(e.logprobs->token.logprob);
      return i != 11 || e.index < 12;
    };
    r.on_finish = [&h](const FinishEvent& e) { h.ends.push_back(e); };
    engine.add(std::move(r));
  }
  engine.run_until_idle();
  stats = engine.stats();
  EXPECT_EQ(stats.free_pages, stats.pages);
  return heard;
}

void expect_equal(const std::vector<Heard>& want, const std::vector<Heard>& got) {
  for (size_t i = 0; i < want.size(); ++i) {
    SCOPED_TRACE(i);
    const auto of_choice = [](const Heard& h, int32_t choice) {
      std::vector<std::pair<int64_t, int32_t>> out;
      for (const TokenEvent& e : h.tokens)
        if (e.choice == choice) out.emplace_back(e.index, e.token);
      return out;
    };
    ASSERT_EQ(want[i].ends.size(), got[i].ends.size());
    for (size_t c = 0; c < want[i].ends.size(); ++c) {
      const auto choice = static_cast<int32_t>(c);
      EXPECT_EQ(of_choice(want[i], choice), of_choice(got[i], choice));
      const auto end = [choice](const Heard& h) {
        return *std::find_if(h.ends.begin(), h.ends.end(), [choice](const FinishEvent& e) { return e.choice == choice; });
      };
      EXPECT_EQ(end(want[i]).reason, end(got[i]).reason);
      EXPECT_EQ(end(want[i]).tokens, end(got[i]).tokens);
      EXPECT_EQ(end(want[i]).stop_id, end(got[i]).stop_id);
      EXPECT_EQ(end(want[i]).error, end(got[i]).error);
    }
    if (want[i].ends.size() > 1) continue;
    // Many sequences at once go through panels, whose sums are ordered differently (kernels/linear.h).
    ASSERT_EQ(want[i].logprobs.size(), got[i].logprobs.size());
    for (size_t t = 0; t < want[i].logprobs.size(); ++t) EXPECT_NEAR(want[i].logprobs[t], got[i].logprobs[t], 1e-5);
  }
}

TEST(Drafts, TheTextIsTheSame) {
  const auto other = Model::load(*Checkpoint::open(golden_root() / "llama-head-dim"));
  EngineStats plain;
  const std::vector<Heard> want = run_all({.kv_pages = 60, .max_sequences = 1}, plain);
  EXPECT_EQ(plain.drafted, 0);
  for (const auto& model : {std::shared_ptr<const Model>(), tiny_model(), other})
    for (const int64_t tokens : {1, 4, 7})
      for (const int64_t sequences : {1, 3, 16})
        for (const int64_t pages : {60, 9}) {
          SCOPED_TRACE(::testing::Message() << tokens << " guesses, " << sequences << " at once, " << pages << " pages, "
                                            << (model == nullptr ? "text" : model == other ? "another model" : "the model itself"));
          EngineStats stats;
          expect_equal(want, run_all({.kv_pages = pages,
                                      .max_batch_tokens = 32,
                                      .max_sequences = sequences,
                                      .draft_tokens = tokens,
                                      .draft_model = model},
                                     stats));
          if (sequences > 1) continue;
          EXPECT_GT(stats.drafted, 0);
          EXPECT_LE(stats.drafts_right, stats.drafted);
          if (model == tiny_model() && pages == 60) {
            EXPECT_GT(stats.drafts_right, stats.drafted / 3);
            EXPECT_LT(stats.steps, plain.steps);
          }
        }
}

TEST(Drafts, AModelThatGuessesForItselfIsRightAndSavesSteps) {
  for (const int64_t guesses : {1, 3, 7}) {
    Engine engine(tiny_model(), {.draft_tokens = guesses, .draft_model = tiny_model()});
    Result result;
    engine.add(request(prompt(5, 9), 40, result));
    engine.run_until_idle();
    EXPECT_EQ(result.ids, greedy_by_hand(*tiny_model(), prompt(5, 9), 40));
    EXPECT_GT(result.finish.drafted, 0);
    EXPECT_EQ(result.finish.drafts_right, result.finish.drafted);
    EXPECT_EQ(engine.stats().steps, 40 - result.finish.drafted);
  }
}

TEST(Drafts, MayBeMany) {
  EXPECT_EQ(error_of([] { Engine(tiny_model(), {.draft_tokens = 8}); }), "draft_tokens: expected 0 to 7, got 8");
  EXPECT_EQ(error_of([] { Engine(tiny_model(), {.draft_tokens = -1}); }), "draft_tokens: expected 0 to 7, got -1");
}

}  // namespace
}  // namespace awq::testing
