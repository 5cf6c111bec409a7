// Tokens drawn on the GPU against the Sampler's, from the same logits: the same ones, or none where roundings decide.
#include <fmt/core.h>

#include <algorithm>
#include <random>

#include "device_testing.h"
#include "model/cuda/device_sampler.h"
#include "runtime/sampling.h"

namespace awq {
namespace {

using cuda::Buffer;
using testing::upload;

enum class Shape { kNormal, kPeaked, kTied, kSparse, kEqual, kOneFinite };
constexpr Shape kShapes[] = {Shape::kNormal, Shape::kPeaked, Shape::kTied, Shape::kSparse, Shape::kEqual, Shape::kOneFinite};

std::vector<float> random_logits(Shape shape, size_t vocab, std::mt19937& random) {
  std::normal_distribution<float> normal(-2, 3);
  std::vector<float> row(vocab);
  for (float& x : row) x = normal(random);
  const auto at = [&] { return random() % vocab; };
  switch (shape) {
    case Shape::kNormal:
      break;
    case Shape::kPeaked:
      for (int i = 0; i < 5; ++i) row[at()] = 18 + normal(random) / 4;
      break;
    case Shape::kTied:  // as of an output layer in bf16, zeros of both signs among them
      for (float& x : row) x = bf16_to_f32(f32_to_bf16(std::round(x * 4) / 4));
      break;
    case Shape::kSparse:
      for (float& x : row)
        if (random() % 4 != 0) x = -INFINITY;
      row[at()] = 1;
      break;
    case Shape::kEqual:
      std::fill(row.begin(), row.end(), normal(random));
      break;
    case Shape::kOneFinite:
      std::fill(row.begin(), row.end(), -INFINITY);
      row[at()] = normal(random);
      break;
  }
  return row;
}

SamplingParams random_params(size_t vocab, std::mt19937& random) {
  const auto one_of = [&](std::initializer_list<float> values) { return values.begin()[random() % values.size()]; };
  SamplingParams p;
  p.temperature = one_of({0, 0.3f, 0.7f, 1, 1, 1.7f, 30});
  p.top_k = static_cast<int32_t>(one_of({0, 0, 1, 3, 40, 5000, 1e6f}));
  p.top_p = one_of({1, 1, 0.1f, 0.5f, 0.9f, 0.95f, 0.999f});
  p.min_p = one_of({0, 0, 0, 0.05f, 0.5f, 1});
  p.repetition_penalty = one_of({1, 1, 1.3f, 0.8f});
  p.presence_penalty = one_of({0, 0, 0.7f, -1});
  p.frequency_penalty = one_of({0, 0, 0.3f});
  if (random() % 3 == 0)
    for (size_t id = random() % vocab, end = std::min(vocab, id + 100); id < end; id += 1 + random() % 50)
      p.logit_bias.emplace_back(static_cast<int32_t>(id), one_of({-100, 5, 1.5f}));
  p.seed = random();
  return p;
}

// Rows that differ in everything, drawn together, `rounds` times with the same samplers. Of how many draws so many were left to the
// Sampler.
struct Tally {
  int64_t draws = 0, undecided = 0;
};
Tally expect_samplers_tokens(size_t vocab, size_t rows, int rounds, Shape shape, uint32_t seed) {
  SCOPED_TRACE(fmt::format("vocabulary of {}, shape {}, seed {}", vocab, static_cast<int>(shape), seed));
  std::mt19937 random(seed);
  const cuda::Stream stream;
  DeviceSampler device;
  std::vector<Sampler> samplers;
  std::vector<SamplingParams> params;
  for (size_t i = 0; i < rows; ++i) {
    params.push_back(random_params(vocab, random));
    samplers.emplace_back(params.back(), static_cast<int64_t>(vocab));
    std::vector<int32_t> prompt(random() % 60);
    for (int32_t& id : prompt) id = static_cast<int32_t>(random() % vocab);
    samplers.back().accept_prompt(prompt);
  }
  Tally tally;
  for (int round = 0; round < rounds; ++round) {
    std::vector<float> logits;
    std::vector<RowDraw> wanted;
    for (size_t i = 0; i < rows; ++i) {
      const auto row = random_logits(shape, vocab, random);
      logits.insert(logits.end(), row.begin(), row.end());
      wanted.push_back(*samplers[i].plan());
      if (random() % 8 == 0) wanted.back().draws = false;
    }
    const Buffer d = upload(logits);
    std::vector<int32_t> tokens(rows, -2);
    device.draw(d.as<float>(), static_cast<int64_t>(vocab), wanted, stream.get(), tokens.data());
    std::vector<float> after(logits.size());
    d.download(after.data(), d.bytes());
    bool all_restored = false;
    for (size_t i = 0; i < rows; ++i) all_restored |= tokens[i] == -1;
    for (size_t i = 0; i < rows; ++i) {
      float* row = logits.data() + i * vocab;
      const bool as_before = std::memcmp(row, after.data() + i * vocab, vocab * 4) == 0;
      EXPECT_TRUE(as_before || (wanted[i].draws && !all_restored)) << "row " << i << " was changed";
      if (!wanted[i].draws) {
        EXPECT_EQ(tokens[i], -2);
        continue;
      }
      const int32_t want = samplers[i].draw({row, vocab});
      samplers[i].accept(want);
      ++tally.draws;
      if (tokens[i] == -1)
        ++tally.undecided;
      else
        EXPECT_EQ(tokens[i], want) << fmt::format("row {} in round {}: temperature {}, top-k {}, top-p {}, min-p {}", i, round,
                                                  params[i].temperature, params[i].top_k, params[i].top_p, params[i].min_p);
    }
  }
  return tally;
}

void expect_samplers_tokens(std::initializer_list<size_t> vocabularies, size_t rows, int rounds) {
  for (const Shape shape : kShapes) {
    Tally all;
    for (const size_t vocab : vocabularies) {
      const Tally t = expect_samplers_tokens(vocab, rows, rounds, shape, static_cast<uint32_t>(vocab) * 7 + static_cast<uint32_t>(shape));
      all.draws += t.draws, all.undecided += t.undecided;
    }
    // Among equal logits alone top-p often cuts exactly between two.
    EXPECT_LE(all.undecided, all.draws / (shape == Shape::kEqual ? 4 : 100)) << "shape " << static_cast<int>(shape);
    fmt::print("shape {}: {} of {} draws left to the host\n", static_cast<int>(shape), all.undecided, all.draws);
  }
}

TEST(DeviceSample, SmallVocabularies) {
  SKIP_WITHOUT_GPU();
  expect_samplers_tokens({1, 2, 3, 31, 33, 512, 1000, 8191, 8192, 8193, 20011}, 16, 6);
}
TEST(DeviceSample, LargeVocabularies) {
  SKIP_WITHOUT_GPU();
  expect_samplers_tokens({32003, 128256, 151936, 262208}, 16, 3);
}

// What a request may have that no sane one has.
TEST(DeviceSample, ExtremeParameters) {
  SKIP_WITHOUT_GPU();
  const size_t vocab = 3001;
  const cuda::Stream stream;
  DeviceSampler device;
  std::mt19937 random(5);
  for (const float temperature : {1e-45f, 1e-6f, 1e4f, 1e20f})
    for (const float top_p : {1e-6f, 0.5f, 0.99999994f, 1.0f})
      for (const float min_p : {0.0f, 1e-6f, 1.0f}) {
        SamplingParams p;
        p.temperature = temperature, p.top_p = top_p, p.min_p = min_p;
        Sampler sampler(p, static_cast<int64_t>(vocab));
        for (const Shape shape : kShapes) {
          auto row = random_logits(shape, vocab, random);
          const Buffer d = upload(row);
          const RowDraw wanted = *sampler.plan();
          int32_t token = -2;
          device.draw(d.as<float>(), static_cast<int64_t>(vocab), {&wanted, 1}, stream.get(), &token);
          const int32_t want = sampler.draw(row);
          EXPECT_TRUE(token == -1 || token == want) << fmt::format("temperature {}, top-p {}, min-p {}", temperature, top_p, min_p);
        }
      }
}

TEST(DeviceSample, LeavesRowsWithoutAnAnswerToTheSampler) {
  SKIP_WITHOUT_GPU();
  const size_t vocab = 20011;
  const cuda::Stream stream;
  DeviceSampler device;
  std::mt19937 random(1);
  for (const float temperature : {0.0f, 1.0f}) {
    std::vector<float> logits;
    std::vector<RowDraw> wanted;
    constexpr int kRows = 6;
    for (int i = 0; i < kRows; ++i) {
      auto row = random_logits(Shape::kPeaked, vocab, random);
      if (i == 1) row[vocab - 1] = NAN;
      if (i == 2) row[9000] = -NAN;
      if (i == 3) row[0] = INFINITY;
      if (i == 4) std::fill(row.begin(), row.end(), -INFINITY);
      logits.insert(logits.end(), row.begin(), row.end());
      wanted.push_back({.row = i, .draws = true, .temperature = temperature, .top_k = 50, .top_p = 0.9f, .uniform = 0.25});
    }
    for (int again = 0; again < 2; ++again) {  // nothing stays behind
      const Buffer d = upload(logits);
      std::vector<int32_t> tokens(kRows, -2);
      device.draw(d.as<float>(), static_cast<int64_t>(vocab), wanted, stream.get(), tokens.data());
      for (const int i : {1, 2, 3, 4}) EXPECT_EQ(tokens[static_cast<size_t>(i)], -1) << i;
      for (const int i : {0, 5}) EXPECT_GE(tokens[static_cast<size_t>(i)], 0) << i;
    }
  }
}

}  // namespace
}  // namespace awq
