// How many calibration sequences --samples auto takes.
#include "quant/sample_count.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <random>

#include "base/thread_pool.h"
#include "unit/model/golden.h"

namespace awq::testing {
namespace {

constexpr int64_t kLength = 32;

std::vector<int32_t> random_stream(int64_t sequences, uint32_t seed) {
  std::mt19937 rng(seed);
  std::vector<int32_t> ids(static_cast<size_t>(sequences * kLength));
  for (int32_t& id : ids) id = static_cast<int32_t>(3 + rng() % 120);
  return ids;
}

QuantizeOptions options(const std::string& method, const std::string& quality = "best") {
  QuantizeOptions o;
  o.method = method;
  o.quality = quality;
  o.group = 16;
  o.format = "dense";
  return o;
}

SampleChoice choose(const QuantizeOptions& o, const std::vector<int32_t>& stream, const char* model = "llama-tied") {
  return choose_samples(*Checkpoint::open(golden_root() / model), o, stream, kLength, Precision::kExact, {});
}

// Every sequence says the same: what fits one half fits the other.
TEST(SampleCount, TextThatRepeatsItselfNeedsNoMore) {
  std::vector<int32_t> stream = random_stream(1, 3);
  const std::vector<int32_t> one = stream;
  for (int i = 1; i < 300; ++i) stream.insert(stream.end(), one.begin(), one.end());
  const SampleChoice choice = choose(options("awq"), stream);
  EXPECT_TRUE(choice.converged);
  EXPECT_EQ(choice.used, 2 * kFirstSamples);
  ASSERT_EQ(choice.steps.size(), 1u);
  EXPECT_NEAR(choice.steps[0].gap, 0, 1e-3);
  EXPECT_EQ(choice.available, kMostSamples);
  EXPECT_EQ(choice.sequences.count(), choice.used);
}

TEST(SampleCount, GapsFallWithTheText) {
  const std::vector<int32_t> stream = random_stream(300, 5);
  const SampleChoice best = choose(options("awq"), stream), fast = choose(options("awq", "fast"), stream);
  ASSERT_GE(best.steps.size(), 3u);
  EXPECT_LT(best.steps.back().gap, best.steps.front().gap / 2);
  EXPECT_GT(best.steps.front().gap, kSampleGap);
  EXPECT_LE(fast.used, best.used);  // it reads blocks of the Gram matrix only
  EXPECT_LE(best.used, kMostSamples);
  for (size_t i = 0; i < best.steps.size(); ++i) EXPECT_EQ(best.steps[i].fitted, kFirstSamples << i);
}

TEST(SampleCount, ShortTextsAreUsedWhole) {
  for (const int64_t sequences : {1, 7, 20}) {
    const std::vector<int32_t> stream = random_stream(sequences, 9);
    const SampleChoice choice = choose(options("gptq"), stream);
    EXPECT_EQ(choice.used, sequences);
    EXPECT_EQ(choice.sequences.tokens(), sequences * kLength);
    EXPECT_FALSE(choice.converged);
    EXPECT_EQ(samples_json(choice)["available"], sequences);
    EXPECT_NE(samples_text(choice, kLength).find("all"), std::string::npos);
  }
}

TEST(SampleCount, IsTheSameForAnyNumberOfThreads) {
  const std::vector<int32_t> stream = random_stream(70, 11);
  const int before = threads();
  std::vector<std::string> found;
  for (const int n : {1, 3}) {
    set_threads(n);
    const SampleChoice choice = choose(options("awq"), stream, "gemma3-layer-types-v5");
    found.push_back(samples_json(choice).dump() + tokens_digest(choice.sequences));
  }
  set_threads(before);
  EXPECT_EQ(found[0], found[1]);
}

TEST(SampleCount, OfEveryMethod) {
  const std::vector<int32_t> stream = random_stream(40, 13);
  for (const char* method : {"autoawq", "gptq", "smoothquant"}) {
    QuantizeOptions o = options(method);
    if (std::string(method) == "smoothquant") o.group.reset(), o.format = "auto";
    EXPECT_GT(choose(o, stream).used, 0) << method;
  }
  EXPECT_EQ(choose(options("rtn"), stream).used, 0);
}

}  // namespace
}  // namespace awq::testing
