// Sequences of made-up tokens that a model reads step by step.
#pragma once
#include <vector>

#include "model/model.h"

namespace awq::testing {

// Sequences in one cache, their pages dealt out backwards.
struct Sequences {
  Sequences(const Model& m, int count, DType dtype = DType::kF32) : model(m), cache(m, count * kPages, dtype) {
    for (int s = 0; s < count; ++s) {
      pages.emplace_back();
      for (int i = 0; i < kPages; ++i) pages.back().push_back(count * kPages - 1 - (i * count + s));
    }
    past.resize(static_cast<size_t>(count));
  }
  // tokens[s] more tokens of each sequence; logits of all of them.
  std::vector<float> step(const std::vector<int>& tokens) {
    prepare(tokens);
    model.forward({ids, positions, spans}, &cache, scratch, hidden);
    const auto rows = static_cast<int64_t>(ids.size());
    std::vector<float> logits(static_cast<size_t>(rows * model.config().vocab));
    model.logits(hidden.data(), rows, logits.data());
    for (size_t s = 0; s < tokens.size(); ++s) past[s] += tokens[s];
    return logits;
  }
  void prepare(const std::vector<int>& tokens) {
    ids.clear(), positions.clear(), spans.clear();
    for (size_t s = 0; s < tokens.size(); ++s) {
      if (tokens[s] == 0) continue;
      spans.push_back({static_cast<int64_t>(ids.size()), tokens[s], past[s], pages[s].data()});
      for (int i = 0; i < tokens[s]; ++i) {
        ids.push_back(static_cast<int32_t>((s * 131 + (past[s] + i) * 37 + 5) % 1000));
        positions.push_back(static_cast<int32_t>(past[s] + i));
      }
    }
  }

  static constexpr int kPages = 20;
  const Model& model;
  KvCache cache;
  std::vector<std::vector<int32_t>> pages;
  std::vector<int64_t> past;
  std::vector<int32_t> ids, positions;
  std::vector<SpanView> spans;
  Scratch scratch;
  std::vector<float> hidden;
};

}  // namespace awq::testing
