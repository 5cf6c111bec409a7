// The engine on a golden checkpoint: what it generates, and how requests end.
#include "runtime/engine.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <thread>

#include "runtime/end_ids.h"
#include "unit/runtime/engine_fixture.h"

namespace awq::testing {
namespace {

TEST(Engine, ManySequencesAtOnceGenerateWhatEachDoesAlone) {
  struct Case {
    int64_t first, size, max_tokens;
  };
  const Case cases[] = {{0, 1, 30}, {3, 37, 20}, {40, 17, 5}, {10, 16, 33}, {50, 30, 12}, {41, 2, 25}};
  for (const int64_t chunk : {6, 13, 512}) {
    SCOPED_TRACE(chunk);
    Engine engine(tiny_model(), {.kv_pages = 14, .max_batch_tokens = chunk, .max_sequences = 4});
    std::vector<Result> results(std::size(cases));
    for (size_t i = 0; i < results.size(); ++i)
      engine.add(request(prompt(cases[i].first, cases[i].size), cases[i].max_tokens, results[i]));
    engine.run_until_idle();
    for (size_t i = 0; i < results.size(); ++i) {
      SCOPED_TRACE(i);
      EXPECT_EQ(results[i].ids,
                greedy_by_hand(*tiny_model(), prompt(cases[i].first, cases[i].size), cases[i].max_tokens));
      EXPECT_EQ(results[i].finish.reason, FinishReason::kLength);
      EXPECT_EQ(results[i].finish.prompt_tokens, cases[i].size);
      EXPECT_EQ(results[i].finish.tokens, cases[i].max_tokens);
      EXPECT_EQ(results[i].finished, 1);
    }
    const EngineStats stats = engine.stats();
    EXPECT_EQ(stats.free_pages, 14);
    EXPECT_EQ(stats.running + stats.waiting, 0);
    EXPECT_EQ(stats.prompt_tokens, 1 + 37 + 17 + 16 + 30 + 2);
    EXPECT_EQ(stats.generated_tokens, 30 + 20 + 5 + 33 + 12 + 25);
  }
}

// Not only the same tokens: the same bits.
TEST(Engine, LogProbabilitiesDoNotDependOnTheBatch) {
  for (const Precision precision : {Precision::kExact, Precision::kFast}) {
    LoadOptions load{precision, nullptr};
    load.load_in = LoadIn::kRtn;
    const auto model = Model::load(*Checkpoint::open(golden_root() / "llama-tied"), load);
    const auto run = [&](int64_t others, int64_t chunk) {
      Engine engine(model, {.kv_pages = 4 * (others + 1), .max_batch_tokens = chunk, .max_sequences = others + 1});
      std::vector<Result> results(static_cast<size_t>(others));
      std::vector<std::pair<int32_t, float>> drawn;
      Result result;
      Request watched = request(prompt(3, 37), 12, result);
      watched.logprobs = 0;
      watched.on_token = [&drawn](const TokenEvent& e) {
        drawn.emplace_back(e.token, e.logprobs->token.logprob);
        return true;
      };
      for (int64_t i = 0; i < others / 2; ++i) engine.add(request(prompt(i, 1 + i % 20), 25, results[static_cast<size_t>(i)]));
      engine.add(std::move(watched));
      for (int64_t i = others / 2; i < others; ++i) engine.add(request(prompt(i, 1 + i % 20), 25, results[static_cast<size_t>(i)]));
      engine.run_until_idle();
      return drawn;
    };
    const auto alone = run(0, 512);
    ASSERT_EQ(alone.size(), 12u);
    EXPECT_EQ(alone, run(1, 7));
    EXPECT_EQ(alone, run(40, 64));
    EXPECT_EQ(alone, run(40, 512));
  }
}

// Both models rotate a sequence of more than 16 tokens differently from its first one on: the cache must not
// hold both.
TEST(Engine, SequencesThatOutgrowTheOriginalLengthAreRotatedAlikeThroughout) {
  for (const char* name : {"phi3-longrope-long", "llama-dynamic"}) {
    const auto model = Model::load(*Checkpoint::open(golden_root() / name));
    Engine engine(model, {.max_batch_tokens = 5, .max_sequences = 2});
    std::vector<Result> results(2);
    engine.add(request(prompt(0, 9), 20, results[0]));
    engine.add(request(prompt(9, 6), 8, results[1]));
    engine.run_until_idle();
    EXPECT_EQ(results[0].ids, greedy_by_hand(*model, prompt(0, 9), 20)) << name;
    EXPECT_EQ(results[1].ids, greedy_by_hand(*model, prompt(9, 6), 8)) << name;
  }
}

TEST(Engine, DecodesShareSteps) {
  Engine engine(tiny_model(), {});
  std::vector<Result> results(3);
  for (Result& r : results) engine.add(request(prompt(0, 4), 10, r));
  engine.run_until_idle();
  EXPECT_EQ(engine.stats().steps, 10);  // the prompts' step draws the first token of each
}

TEST(Engine, TheContextEndsASequence) {
  Engine engine(tiny_model(), {});
  Result result;
  engine.add(request(prompt(0, 60), 100, result));
  engine.run_until_idle();
  EXPECT_EQ(result.ids.size(), static_cast<size_t>(kContext - 60));
  EXPECT_EQ(result.finish.reason, FinishReason::kLength);
}

TEST(Engine, StopAndEndIds) {
  const std::vector<int32_t> free_run = greedy_by_hand(*tiny_model(), prompt(0, 8), 12);
  // The first id that has not come before it would end the run too early otherwise.
  size_t at = 3;
  while (std::find(free_run.begin(), free_run.begin() + static_cast<int64_t>(at), free_run[at]) !=
         free_run.begin() + static_cast<int64_t>(at))
    ++at;
  ASSERT_LT(at, free_run.size());
  const std::vector<int32_t> until(free_run.begin(), free_run.begin() + static_cast<int64_t>(at));
  struct Case {
    const char* name;
    bool as_stop_id, as_end_id, ignore;
    bool ends;
  };
  for (const Case& c :
       {Case{"stop id", true, false, false, true}, Case{"stop id, ends ignored", true, false, true, true},
        Case{"end id", false, true, false, true}, Case{"end id, ignored", false, true, true, false}}) {
    SCOPED_TRACE(c.name);
    EngineOptions options;
    options.end_ids = {c.as_end_id ? free_run[at] : int32_t{kVocab + 5}};
    Engine engine(tiny_model(), options);
    Result result;
    Request r = request(prompt(0, 8), 12, result);
    if (c.as_stop_id) r.stop_ids = {free_run[at]};
    r.ignore_eos = c.ignore;
    engine.add(std::move(r));
    engine.run_until_idle();
    EXPECT_EQ(result.ids, c.ends ? until : free_run);
    EXPECT_EQ(result.finish.reason, c.ends ? FinishReason::kStop : FinishReason::kLength);
    EXPECT_EQ(result.finish.stop_id, c.ends ? free_run[at] : -1);
    EXPECT_EQ(result.finish.tokens, static_cast<int64_t>(result.ids.size()));
  }
}

TEST(Engine, CallbackCancels) {
  Engine engine(tiny_model(), {});
  Result stopped, other;
  Request r = request(prompt(0, 8), 30, stopped);
  r.on_token = [&](const TokenEvent& e) {
    stopped.ids.push_back(e.token);
    return stopped.ids.size() < 3;
  };
  engine.add(std::move(r));
  engine.add(request(prompt(8, 8), 10, other));
  engine.run_until_idle();
  EXPECT_EQ(stopped.ids.size(), 3u);
  EXPECT_EQ(stopped.finish.reason, FinishReason::kCancelled);
  EXPECT_EQ(other.ids, greedy_by_hand(*tiny_model(), prompt(8, 8), 10));
  EXPECT_EQ(engine.stats().free_pages, engine.stats().pages);
}

TEST(Engine, CancelByIdWaitingRunningOrGone) {
  Engine engine(tiny_model(), {.max_sequences = 1});
  Result running, waiting;
  const int64_t a = engine.add(request(prompt(0, 8), 30, running)),
                b = engine.add(request(prompt(8, 8), 30, waiting));
  EXPECT_TRUE(engine.step());
  EXPECT_TRUE(engine.step());
  engine.cancel(b);
  engine.cancel(b);
  engine.cancel(12345);
  EXPECT_TRUE(engine.step());
  EXPECT_EQ(waiting.finished, 1);
  EXPECT_EQ(waiting.finish.reason, FinishReason::kCancelled);
  EXPECT_TRUE(waiting.ids.empty());
  engine.cancel(a);
  EXPECT_FALSE(engine.step());
  EXPECT_EQ(running.finished, 1);
  EXPECT_EQ(running.ids.size(), 3u);
  EXPECT_EQ(engine.stats().free_pages, engine.stats().pages);
}

TEST(Engine, CallbacksMayAdd) {
  Engine engine(tiny_model(), {.kv_pages = 2});
  Result first, second;
  Request r = request(prompt(0, 16), 16, first);
  r.on_finish = [&](const FinishEvent&) { engine.add(request(prompt(5, 16), 16, second)); };
  engine.add(std::move(r));
  engine.run_until_idle();
  EXPECT_EQ(second.ids, greedy_by_hand(*tiny_model(), prompt(5, 16), 16));
}

TEST(Engine, LogitsCanBeAdjusted) {
  Engine engine(tiny_model(), {});
  Result result;
  Request r = request(prompt(0, 8), 6, result);
  r.adjust_logits = [&](std::span<const int32_t> tokens, std::span<float> logits) {
    EXPECT_EQ(tokens.size(), 8 + result.ids.size());
    EXPECT_EQ(logits.size(), static_cast<size_t>(kVocab));
    for (size_t i = 0; i < logits.size(); ++i)
      if (i != 40 + tokens.size() % 2) logits[i] = -INFINITY;
  };
  engine.add(std::move(r));
  engine.run_until_idle();
  EXPECT_EQ(result.ids, (std::vector<int32_t>{40, 41, 40, 41, 40, 41}));
}

// What a sequence draws depends on its seed alone, not on its neighbours.
TEST(Engine, SampledTextIsTheSameAloneAndInCompany) {
  const auto sampled = [](Engine& engine, uint64_t seed, Result& result) {
    Request r = request(prompt(0, 8), 20, result);
    r.sampling.temperature = 1;
    r.sampling.top_p = 0.9f;
    r.sampling.seed = seed;
    engine.add(std::move(r));
  };
  Result alone, together, other;
  Engine one(tiny_model(), {}), two(tiny_model(), {});
  sampled(one, 1, alone);
  one.run_until_idle();
  sampled(two, 2, other);
  sampled(two, 1, together);
  two.run_until_idle();
  EXPECT_EQ(alone.ids, together.ids);
  EXPECT_NE(alone.ids, other.ids);
}

TEST(Engine, RequestsFromOtherThreads) {
  Engine engine(tiny_model(), {.max_sequences = 3});
  std::vector<Result> results(12);
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 4; ++i)
        engine.add(request(prompt(t, 6), 8, results[static_cast<size_t>(4 * t + i)]));
    });
  while (engine.stats().generated_tokens < 12 * 8) engine.step();
  for (auto& thread : threads) thread.join();
  engine.run_until_idle();
  for (size_t i = 0; i < results.size(); ++i)
    EXPECT_EQ(results[i].ids, greedy_by_hand(*tiny_model(), prompt(static_cast<int64_t>(i) / 4, 6), 8)) << i;
}

TEST(Engine, SmallerCachesWork) {
  for (const DType dtype : {DType::kF16, DType::kBF16, DType::kI8}) {
    Engine engine(tiny_model(),
                  {.kv_dtype = dtype, .kv_bytes = 4 * KvCache::page_bytes(tiny_model()->config(), dtype)});
    EXPECT_EQ(engine.stats().pages, 4);
    Result result;
    engine.add(request(prompt(0, 20), 20, result));
    engine.run_until_idle();
    EXPECT_EQ(result.ids.size(), 20u);
  }
}

TEST(Engine, ImpossibleRequestsAreRefusedWithNumbers) {
  Engine engine(tiny_model(), {.kv_pages = 2});
  Result result;
  const auto add = [&](std::vector<int32_t> ids, int64_t max_tokens) {
    return error_of([&] { engine.add(request(ids, max_tokens, result)); });
  };
  EXPECT_EQ(add({}, 5), "the prompt is empty: expected at least 1 token");
  EXPECT_EQ(add(std::vector<int32_t>(64, 3), 5),
            "the prompt has 64 tokens: the model's context of 64 leaves no room for an answer");
  EXPECT_EQ(add({1, 128}, 5), "the prompt holds token id 128: the model's vocabulary ends at 127");
  EXPECT_EQ(add({-1}, 5), "the prompt holds token id -1: the model's vocabulary ends at 127");
  EXPECT_EQ(add({1, 2}, 0), "max_tokens: expected at least 1, got 0");
  EXPECT_EQ(add(std::vector<int32_t>(20, 3), 13),
            "20 prompt tokens and 13 to generate need 3 pages of 16 tokens: the key/value cache has 2");
  EXPECT_FALSE(engine.step());
  EXPECT_EQ(add(std::vector<int32_t>(20, 3), 12), "no error");
}

TEST(Engine, ImpossibleOptionsAreRefusedWithNumbers) {
  const auto make = [](EngineOptions options) {
    return error_of([&] { Engine engine(tiny_model(), options); });
  };
  EXPECT_EQ(make({.kv_dtype = DType::kU8}), "key/value cache: expected F32, F16, BF16 or I8, got U8");
  EXPECT_EQ(make({.max_batch_tokens = 8, .max_sequences = 9}),
            "max_batch_tokens: expected at least max_sequences, and that at least 1, got 8 and 9");
  EXPECT_EQ(make({.max_sequences = 0}),
            "max_batch_tokens: expected at least max_sequences, and that at least 1, got 512 and 0");
  EXPECT_EQ(make({.kv_pages = -1}), "key/value cache: expected 1 to 2147483647 pages, got -1");
  EXPECT_EQ(make({.kv_bytes = 100}), "key/value cache: 100 bytes hold no page: one takes 8192 bytes");
}

TEST(EndIds, ConfigAndGenerationConfigTogether) {
  const auto dir = std::filesystem::temp_directory_path() / ("awq_end_ids_" + std::to_string(::getpid()));
  std::filesystem::remove_all(dir);
  std::filesystem::copy(golden_root() / "llama-tied", dir);
  EXPECT_EQ(end_ids(*Checkpoint::open(dir)), (std::vector<int32_t>{2}));
  std::ofstream(dir / "generation_config.json") << R"({"eos_token_id": [9, 2, 5, -1]})";
  EXPECT_EQ(end_ids(*Checkpoint::open(dir)), (std::vector<int32_t>{2, 5, 9}));
  std::filesystem::remove_all(dir);
}

}  // namespace
}  // namespace awq::testing
