// The engine under load: shared and scarce pages, several answers, log-probabilities, deadlines, and failures
// that concern one request.
#include <array>
#include <atomic>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <thread>

#include "unit/runtime/engine_fixture.h"

namespace awq::testing {
namespace {

// The untied golden checkpoint with NaN for the embedding of one token (a file with NaN would not load).
constexpr int32_t kPoison = 77;
std::shared_ptr<const Model> poisoned_model() {
  const auto checkpoint = Checkpoint::open(golden_root() / "llama-untied");
  const auto config = std::make_shared<const ModelConfig>(parse_model_config(checkpoint->config(), "config"));
  std::vector<std::unique_ptr<Block>> blocks;
  for (int64_t i = 0; i < config->layers; ++i) {
    const BlockSpec spec = find_arch(config->model_type, "config").block(*config, i);
    blocks.push_back(std::make_unique<Block>(config, spec, load_block(*checkpoint, *config, spec, false),
                                             Precision::kExact));
  }
  const Tensor stored = load_embedding(*checkpoint, *config);
  Tensor embedding(DType::kF32, {config->vocab, config->hidden});
  float* out = embedding.mutable_data<float>();
  std::copy_n(stored.f32(), stored.numel(), out);
  std::fill_n(out + kPoison * config->hidden, config->hidden, std::nanf(""));
  return std::make_shared<Model>(config, embedding, load_vector(*checkpoint, kFinalNormName, config->hidden),
                                 load_head(*checkpoint, *config, stored), std::move(blocks),
                                 Precision::kExact);
}

std::vector<int32_t> without_poison(std::vector<int32_t> ids) {
  std::replace(ids.begin(), ids.end(), kPoison, kPoison + 1);
  return ids;
}

TEST(EngineLoad, LogitsThatAreNoNumbersEndTheirOwnRequestOnly) {
  const auto model = poisoned_model();
  Engine engine(model, {.kv_pages = 8, .max_sequences = 4});
  for (int round = 0; round < 3; ++round) {
    std::vector<Result> good(3), bad(2);
    std::vector<int32_t> with = without_poison(prompt(20, 20));
    with[3] = kPoison;
    engine.add(request(without_poison(prompt(0, 20)), 8, good[0]));
    engine.add(request(with, 8, bad[0]));
    Request scored = request(with, 8, bad[1]);
    scored.prompt_logprobs = 0;
    engine.add(std::move(scored));
    engine.add(request(without_poison(prompt(10, 18)), 8, good[1]));
    engine.add(request(without_poison(prompt(40, 9)), 8, good[2]));
    engine.run_until_idle();
    EXPECT_EQ(good[0].ids, greedy_by_hand(*model, without_poison(prompt(0, 20)), 8));
    EXPECT_EQ(good[1].ids, greedy_by_hand(*model, without_poison(prompt(10, 18)), 8));
    EXPECT_EQ(good[2].ids, greedy_by_hand(*model, without_poison(prompt(40, 9)), 8));
    for (const Result& r : bad) {
      EXPECT_EQ(r.finished, 1);
      EXPECT_EQ(r.finish.reason, FinishReason::kError);
      EXPECT_THAT(r.finish.error, ::testing::HasSubstr("NaN"));
      EXPECT_TRUE(r.ids.empty());
    }
    EXPECT_EQ(engine.stats().free_pages, 8);
  }
}

TEST(EngineLoad, AConstraintThatThrowsEndsItsOwnAnswer) {
  Engine engine(tiny_model(), {});
  Result good, bad;
  Request r = request(prompt(0, 8), 8, bad);
  r.make_constraint = [](int32_t) {
    return [](std::span<const int32_t> tokens, std::span<float>) {
      if (tokens.size() == 10) fail(Code::kBadArgument, "no way on");
    };
  };
  engine.add(std::move(r));
  engine.add(request(prompt(8, 8), 8, good));
  engine.run_until_idle();
  EXPECT_EQ(bad.ids.size(), 2u);
  EXPECT_EQ(bad.finish.reason, FinishReason::kError);
  EXPECT_EQ(bad.finish.error, "no way on");
  EXPECT_EQ(good.ids, greedy_by_hand(*tiny_model(), prompt(8, 8), 8));
}

TEST(EngineLoad, FailAllEndsEverythingAndTheEngineGoesOn) {
  Engine engine(tiny_model(), {.max_sequences = 1});
  Result a, b, c;
  engine.add(request(prompt(0, 8), 8, a));
  Request two = request(prompt(0, 8), 8, b);
  two.n = 2;
  engine.add(std::move(two));
  engine.step();
  engine.fail_all("out of memory");
  EXPECT_EQ(a.finish.reason, FinishReason::kError);
  EXPECT_EQ(a.finish.error, "out of memory");
  EXPECT_EQ(b.finished, 2);
  EXPECT_EQ(engine.stats().free_pages, engine.stats().pages);
  engine.add(request(prompt(0, 8), 8, c));
  engine.run_until_idle();
  EXPECT_EQ(c.ids, greedy_by_hand(*tiny_model(), prompt(0, 8), 8));
}

TEST(EngineLoad, APrefixReadBeforeIsReused) {
  Engine engine(tiny_model(), {.kv_pages = 20});
  const auto run = [&](std::vector<int32_t> ids, uint64_t salt) {
    Result result;
    Request r = request(ids, 6, result);
    r.cache_salt = salt;
    engine.add(std::move(r));
    engine.run_until_idle();
    EXPECT_EQ(result.ids, greedy_by_hand(*tiny_model(), ids, 6));
    return result.finish.reused_tokens;
  };
  EXPECT_EQ(run(prompt(0, 40), 0), 0);
  EXPECT_EQ(run(prompt(0, 40), 0), 32);
  EXPECT_EQ(run(prompt(0, 40), 5), 0) << "not that of another tenant";
  EXPECT_EQ(run(prompt(0, 33), 0), 32);
  EXPECT_EQ(run(prompt(0, 32), 0), 16) << "the last token is always run";
  std::vector<int32_t> differs = prompt(0, 40);
  differs[15] ^= 1;
  EXPECT_EQ(run(differs, 0), 0);
  // A conversation goes on from its own answer too.
  std::vector<int32_t> longer = prompt(0, 40);
  const auto answer = greedy_by_hand(*tiny_model(), longer, 6);
  longer.insert(longer.end(), answer.begin(), answer.end());
  longer.insert(longer.end(), {5, 6, 7});
  EXPECT_EQ(run(longer, 5), 32);
  const EngineStats stats = engine.stats();
  EXPECT_EQ(stats.reused_tokens, 32 + 32 + 16 + 32);
  EXPECT_EQ(stats.free_pages, stats.pages);
}

TEST(EngineLoad, WhenPagesRunOutSequencesAreReadAgainAndEndAsTheyWould) {
  for (const bool share : {true, false}) {
    Engine engine(tiny_model(), {.kv_pages = 6, .max_sequences = 5, .share_prefixes = share});
    std::vector<Result> results(5);
    for (int64_t i = 0; i < 5; ++i) {
      Request r = request(prompt(10 * i, 12), 40, results[static_cast<size_t>(i)]);
      if (i == 4) {  // draws go on where they were
        r.sampling.temperature = 1;
        r.sampling.presence_penalty = 0.5f;
      }
      engine.add(std::move(r));
    }
    engine.run_until_idle();
    EXPECT_GT(engine.stats().preemptions, 0);
    EXPECT_EQ(engine.stats().prompt_tokens, 60) << "read again is not counted again";
    EXPECT_EQ(engine.stats().free_pages, 6);
    for (int64_t i = 0; i < 4; ++i)
      EXPECT_EQ(results[static_cast<size_t>(i)].ids, greedy_by_hand(*tiny_model(), prompt(10 * i, 12), 40))
          << i;
    Engine alone(tiny_model(), {});
    Result sampled;
    Request r = request(prompt(40, 12), 40, sampled);
    r.sampling.temperature = 1;
    r.sampling.presence_penalty = 0.5f;
    alone.add(std::move(r));
    alone.run_until_idle();
    EXPECT_EQ(results[4].ids, sampled.ids);
  }
}

TEST(EngineLoad, SeveralAnswersToOnePrompt) {
  const auto run = [&](int32_t n, float temperature) {
    Engine engine(tiny_model(), {.kv_pages = 16});
    std::map<int32_t, std::vector<int32_t>> answers;
    int finished = 0;
    Request r;
    r.prompt = prompt(0, 20);
    r.max_tokens = 12;
    r.ignore_eos = true;
    r.n = n;
    r.sampling.temperature = temperature;
    r.on_token = [&](const TokenEvent& e) {
      answers[e.choice].push_back(e.token);
      return true;
    };
    r.on_finish = [&](const FinishEvent& e) {
      ++finished;
      EXPECT_EQ(e.tokens, 12);
    };
    engine.add(std::move(r));
    engine.run_until_idle();
    EXPECT_EQ(finished, n);
    EXPECT_EQ(engine.stats().prompt_tokens, 20);
    EXPECT_EQ(engine.stats().free_pages, 16);
    return answers;
  };
  const auto alone = run(1, 1), four = run(4, 1), greedy = run(3, 0);
  ASSERT_EQ(four.size(), 4u);
  EXPECT_EQ(four.at(0), alone.at(0));
  for (int32_t i = 1; i < 4; ++i)
    for (int32_t j = 0; j < i; ++j) EXPECT_NE(four.at(i), four.at(j));
  for (const auto& [choice, ids] : greedy) EXPECT_EQ(ids, greedy_by_hand(*tiny_model(), prompt(0, 20), 12));
}

// log softmax of the logits after each of ids, [ids][vocab].
std::vector<std::vector<double>> log_softmax_by_hand(const Model& model, const std::vector<int32_t>& ids) {
  Scratch scratch;
  std::vector<float> hidden;
  const auto n = static_cast<int64_t>(ids.size()), vocab = model.config().vocab;
  std::vector<int32_t> positions(ids.size());
  for (size_t p = 0; p < ids.size(); ++p) positions[p] = static_cast<int32_t>(p);
  const SpanView span{0, n, 0, nullptr};
  model.forward({ids, positions, {&span, 1}}, nullptr, scratch, hidden);
  std::vector<float> logits(static_cast<size_t>(n * vocab));
  model.logits(hidden.data(), n, logits.data());
  std::vector<std::vector<double>> out;
  for (int64_t t = 0; t < n; ++t) {
    std::vector<double> row(logits.begin() + t * vocab, logits.begin() + (t + 1) * vocab);
    double sum = 0;
    for (const double x : row) sum += std::exp(x);
    for (double& x : row) x -= std::log(sum);
    out.push_back(row);
  }
  return out;
}

TEST(EngineLoad, LogprobsOfPromptAndAnswer) {
  Engine engine(tiny_model(), {.max_batch_tokens = 7, .max_sequences = 2});
  Result result;
  std::vector<TokenLogprobs> of_prompt, of_answer;
  Request r = request(prompt(0, 30), 6, result);
  r.logprobs = 3;
  r.prompt_logprobs = 2;
  r.sampling.logit_bias = {{9, -100.0f}};
  r.sampling.presence_penalty = 1;
  r.on_prompt = [&](int64_t, std::span<const TokenLogprobs> all) {
    EXPECT_TRUE(of_prompt.empty() && of_answer.empty());
    of_prompt.assign(all.begin(), all.end());
  };
  r.on_token = [&](const TokenEvent& e) {
    result.ids.push_back(e.token);
    of_answer.push_back(*e.logprobs);
    return true;
  };
  engine.add(std::move(r));
  engine.run_until_idle();
  std::vector<int32_t> all = prompt(0, 30);
  all.insert(all.end(), result.ids.begin(), result.ids.end());
  const auto want = log_softmax_by_hand(*tiny_model(), all);
  ASSERT_EQ(of_prompt.size(), 29u);
  ASSERT_EQ(of_answer.size(), 6u);
  std::vector<TokenLogprobs> got = of_prompt;
  got.insert(got.end(), of_answer.begin(), of_answer.end());
  for (size_t i = 0; i < got.size(); ++i) {
    SCOPED_TRACE(i);
    EXPECT_EQ(got[i].token.token, all[i + 1]);
    EXPECT_NEAR(got[i].token.logprob, want[i][static_cast<size_t>(all[i + 1])], 1e-4);
    ASSERT_EQ(got[i].top.size(), i < 29 ? 2u : 3u);
    EXPECT_NEAR(got[i].top[0].logprob, *std::max_element(want[i].begin(), want[i].end()), 1e-4);
    for (size_t k = 0; k < got[i].top.size(); ++k) {
      EXPECT_NEAR(got[i].top[k].logprob, want[i][static_cast<size_t>(got[i].top[k].token)], 1e-4);
      EXPECT_LE(got[i].top[k].logprob, got[i].top[k == 0 ? 0 : k - 1].logprob);
    }
  }
}

TEST(EngineLoad, APromptCanBeScoredWithoutAnAnswer) {
  Engine engine(tiny_model(), {});
  for (int round = 0; round < 2; ++round) {  // the second one does not skip what is in the cache
    Result result;
    Request r = request(prompt(0, 40), 0, result);
    r.prompt_logprobs = 0;
    std::vector<TokenLogprobs> scores;
    r.on_prompt = [&](int64_t, std::span<const TokenLogprobs> all) { scores.assign(all.begin(), all.end()); };
    engine.add(std::move(r));
    engine.run_until_idle();
    EXPECT_EQ(scores.size(), 39u);
    EXPECT_TRUE(result.ids.empty());
    EXPECT_EQ(result.finish.reason, FinishReason::kLength);
  }
}

TEST(TokenLogprobs, TheLikeliestInOrderEqualOnesById) {
  const std::vector<float> logits = {1, 3, -INFINITY, 3, 2, 1};
  const TokenLogprobs p = token_logprobs(logits, 2, 4);
  EXPECT_EQ(p.token.logprob, -INFINITY);
  std::vector<int32_t> ids;
  for (const auto& t : p.top) ids.push_back(t.token);
  EXPECT_EQ(ids, (std::vector<int32_t>{1, 3, 4, 0}));
  EXPECT_EQ(token_logprobs(logits, 0, 20).top.size(), 6u);
  EXPECT_TRUE(token_logprobs(logits, 0, 0).top.empty());
}

TEST(EngineLoad, DeadlinesEndRequestsWhereverTheyAre) {
  Engine engine(tiny_model(), {.max_sequences = 1});
  Result running, waiting, other;
  Request a = request(prompt(0, 8), 50, running), b = request(prompt(8, 8), 50, waiting);
  a.deadline_seconds = b.deadline_seconds = 0.05;
  engine.add(std::move(a));
  engine.add(std::move(b));
  engine.add(request(prompt(0, 8), 5, other));
  engine.step();
  std::this_thread::sleep_for(std::chrono::milliseconds(60));
  engine.run_until_idle();
  EXPECT_EQ(running.finish.reason, FinishReason::kDeadline);
  EXPECT_EQ(running.ids.size(), 1u);
  EXPECT_EQ(waiting.finish.reason, FinishReason::kDeadline);
  EXPECT_TRUE(waiting.ids.empty());
  EXPECT_EQ(other.ids.size(), 5u);
  EXPECT_EQ(engine.stats().free_pages, engine.stats().pages);
}

TEST(EngineLoad, LongPromptsAreReadInSmallStepsBesideAnswers) {
  Engine engine(tiny_model(), {.kv_pages = 16, .step_seconds = 1e-12});
  Result first, second;
  engine.add(request(prompt(0, 4), 30, first));
  engine.step();
  engine.add(request(prompt(10, 60), 2, second));
  for (size_t tokens = 2; second.ids.empty(); ++tokens) {
    engine.step();
    EXPECT_EQ(first.ids.size(), tokens) << "every step brings the running answer forward";
    EXPECT_LE(engine.stats().prompt_tokens, 4 + kPageTokens * static_cast<int64_t>(tokens - 1));
  }
  EXPECT_EQ(first.ids.size(), 1u + (60 + kPageTokens - 1) / kPageTokens);
}

// Requests with secrets one after the other in a cache of few pages: each hears exactly what it hears in a
// new engine.
TEST(EngineLoad, NothingOfARequestReachesTheNext) {
  const auto ask = [](Engine& engine, uint64_t tenant) {
    std::pair<std::vector<int32_t>, std::vector<float>> heard;
    Request r;
    for (uint64_t i = 0; i < 5 + tenant % 30; ++i)
      r.prompt.push_back(static_cast<int32_t>(uniform_at(tenant, i) * static_cast<double>(kVocab)));
    r.max_tokens = 1 + static_cast<int64_t>(tenant % 7);
    r.ignore_eos = true;
    r.sampling.temperature = 0.7f;
    r.sampling.repetition_penalty = 1.1f;
    r.sampling.seed = tenant;
    r.logprobs = 0;
    r.cache_salt = tenant;
    r.on_token = [&](const TokenEvent& e) {
      heard.first.push_back(e.token);
      heard.second.push_back(e.logprobs->token.logprob);
      return true;
    };
    engine.add(std::move(r));
    engine.run_until_idle();
    return heard;
  };
  Engine shared(tiny_model(), {.kv_pages = 3});
  for (uint64_t tenant = 0; tenant < 300; ++tenant) {
    Engine fresh(tiny_model(), {.kv_pages = 3});
    ASSERT_EQ(ask(shared, tenant), ask(fresh, tenant)) << tenant;
  }
}

// Random requests, cancels and deadlines from two threads while the engine runs: each ends exactly once, no
// page and no place is lost, and what was not cut short is what the request gets alone.
void random_load_loses_nothing(int64_t draft_tokens, const std::shared_ptr<const Model>& draft_model) {
  constexpr int kRequests = 150;
  std::map<std::pair<int64_t, int64_t>, std::vector<int32_t>> expected;
  for (int64_t first : {0, 3, 30})
    for (int64_t size : {5, 18, 40})
      expected[{first, size}] = greedy_by_hand(*tiny_model(), prompt(first, size), 20);
  Engine engine(tiny_model(),
                {.kv_pages = 9,
                 .max_batch_tokens = 24,
                 .max_sequences = 6,
                 .step_seconds = 1e-4,
                 .draft_tokens = draft_tokens,
                 .draft_model = draft_model});
  struct Case {
    Result result;
    int32_t n = 1;
    std::vector<int32_t> want;
    std::map<int32_t, std::vector<int32_t>> heard;
    std::vector<FinishEvent> ends;
  };
  std::vector<Case> cases(kRequests);
  std::atomic<bool> all_added = false;
  std::thread client([&] {
    for (size_t i = 0; i < cases.size(); ++i) {
      Case& c = cases[i];
      const auto draw = [&](uint64_t which, int n) { return static_cast<int>(uniform_at(i, which) * n); };
      const int64_t first = std::array{0, 3, 30}[static_cast<size_t>(draw(0, 3))],
                    size = std::array{5, 18, 40}[static_cast<size_t>(draw(1, 3))];
      Request r = request(prompt(first, size), 1 + draw(2, 20), c.result);
      c.want = expected.at({first, size});
      c.want.resize(static_cast<size_t>(r.max_tokens));
      c.n = r.n = draw(3, 5) == 0 ? 3 : 1;
      if (draw(4, 4) == 0) r.prompt_logprobs = 1;
      if (draw(5, 6) == 0) r.deadline_seconds = 0.002 * draw(6, 10) + 1e-4;
      r.cache_salt = static_cast<uint64_t>(draw(7, 2));
      r.on_token = [&c](const TokenEvent& e) {
        c.heard[e.choice].push_back(e.token);
        return true;
      };
      r.on_finish = [&c](const FinishEvent& e) { c.ends.push_back(e); };
      const int64_t id = engine.add(std::move(r));
      if (draw(8, 4) == 0) engine.cancel(id - draw(9, 3));
      if (draw(10, 3) == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    all_added = true;
    engine.wake();
  });
  while (!all_added || engine.stats().running + engine.stats().waiting > 0)
    if (!engine.step()) engine.wait(0.05);
  client.join();
  int whole = 0;
  for (const Case& c : cases) {
    ASSERT_EQ(c.ends.size(), static_cast<size_t>(c.n));
    for (const FinishEvent& e : c.ends) {
      const auto it = c.heard.find(e.choice);
      const std::vector<int32_t> heard = it == c.heard.end() ? std::vector<int32_t>() : it->second;
      EXPECT_EQ(e.tokens, static_cast<int64_t>(heard.size()));
      if (e.reason == FinishReason::kLength) ++whole;
      const size_t n = e.reason == FinishReason::kLength ? c.want.size() : heard.size();
      EXPECT_EQ(heard, std::vector<int32_t>(c.want.begin(), c.want.begin() + static_cast<long>(n)));
    }
  }
  EXPECT_GT(whole, kRequests / 3);
  const EngineStats stats = engine.stats();
  EXPECT_EQ(stats.free_pages, stats.pages);
  EXPECT_EQ(stats.running + stats.waiting, 0);
}

TEST(EngineLoad, RandomLoadLosesNothing) { random_load_loses_nothing(0, nullptr); }
TEST(EngineLoad, RandomLoadWithGuessesFromTheTextLosesNothing) { random_load_loses_nothing(6, nullptr); }
TEST(EngineLoad, RandomLoadWithGuessesOfAModelLosesNothing) { random_load_loses_nothing(4, tiny_model()); }

TEST(EngineLoad, WaitingEndsWhenThereIsWork) {
  Engine engine(tiny_model(), {});
  engine.wait(0.001);
  Result result;
  std::thread other([&] { engine.add(request(prompt(0, 4), 2, result)); });
  engine.wait(60);
  other.join();
  EXPECT_EQ(engine.stats().waiting, 1);
  engine.run_until_idle();
  engine.wake();
  engine.wait(60);
}

TEST(EngineLoad, WrongRequestsAreRefusedWithNumbers) {
  Engine engine(tiny_model(), {});
  const auto add = [&](const std::function<void(Request&)>& change) {
    Result result;
    Request r = request(prompt(0, 4), 5, result);
    change(r);
    return error_of([&] { engine.add(r); });
  };
  EXPECT_EQ(add([](Request& r) { r.n = 0; }), "n: expected 1 to 128, got 0");
  EXPECT_EQ(add([](Request& r) { r.n = 129; }), "n: expected 1 to 128, got 129");
  EXPECT_EQ(add([](Request& r) { r.logprobs = 21; }), "logprobs: expected up to 20 likeliest tokens, got 21");
  EXPECT_EQ(add([](Request& r) { r.prompt_logprobs = -2; }),
            "logprobs: expected up to 20 likeliest tokens, got -2");
  EXPECT_EQ(add([](Request& r) {
              r.sampling.logit_bias = {{128, 1.0f}};
            }),
            "logit_bias: expected token ids from 0 to 127, got 128");
  EXPECT_EQ(add([](Request& r) {
              r.sampling.logit_bias = {{-1, 1.0f}};
            }),
            "logit_bias: expected token ids from 0 to 127, got -1");
  EXPECT_EQ(engine.stats().waiting, 0);
  EXPECT_EQ(engine.max_tokens(), kContext);
}

}  // namespace
}  // namespace awq::testing
