// What the engine's tests share: a golden checkpoint, requests that record what they hear, and decoding
// without an engine.
#pragma once
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "runtime/engine.h"
#include "unit/model/golden.h"

namespace awq::testing {

constexpr int64_t kContext = 64, kVocab = 128;  // of the golden checkpoints

struct Result {
  std::vector<int32_t> ids;
  FinishEvent finish;
  int finished = 0;
};

inline std::shared_ptr<const Model> tiny_model() {
  static const auto model = Model::load(*Checkpoint::open(golden_root() / "llama-tied"));
  return model;
}

inline std::vector<int32_t> prompt(int64_t first, int64_t size) {
  static const std::vector<int32_t> ids = load_expected("llama-tied").ids;
  return {ids.begin() + first, ids.begin() + first + size};
}

inline Request request(std::vector<int32_t> ids, int64_t max_tokens, Result& result) {
  Request r;
  r.prompt = std::move(ids);
  r.max_tokens = max_tokens;
  r.ignore_eos = true;
  r.on_token = [&result](const TokenEvent& e) {
    EXPECT_EQ(e.index, static_cast<int64_t>(result.ids.size()));
    result.ids.push_back(e.token);
    return true;
  };
  r.on_finish = [&result](const FinishEvent& e) {
    result.finish = e;
    ++result.finished;
  };
  return r;
}

// Greedy decoding by recomputing everything for each token, without a cache and without the engine, each time
// rotated as in a sequence of its final length.
inline std::vector<int32_t> greedy_by_hand(const Model& model, std::vector<int32_t> ids, int64_t n) {
  const size_t given = ids.size();
  const int64_t length = static_cast<int64_t>(given) + n;
  Scratch scratch;
  std::vector<float> hidden, logits(static_cast<size_t>(model.config().vocab));
  for (int64_t i = 0; i < n; ++i) {
    std::vector<int32_t> positions(ids.size());
    for (size_t p = 0; p < ids.size(); ++p) positions[p] = static_cast<int32_t>(p);
    const SpanView span{0, static_cast<int64_t>(ids.size()), 0, nullptr};
    model.forward({ids, positions, {&span, 1}, {&length, 1}}, nullptr, scratch, hidden);
    model.logits(hidden.data() + (static_cast<int64_t>(ids.size()) - 1) * model.config().hidden, 1,
                 logits.data());
    ids.push_back(static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
  }
  return {ids.begin() + static_cast<int64_t>(given), ids.end()};
}

inline std::string error_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), Code::kBadArgument);
    return e.what();
  }
  return "no error";
}

}  // namespace awq::testing
