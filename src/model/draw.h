// Tokens drawn where the logits are. A step's rows are asked for tokens or for logits; a device answers with tokens where it can, so
// that rows of the vocabulary's size stay in its memory. What it cannot answer comes back as logits, as every row of the CPU does,
// and the caller draws from them (runtime/sampling.h). A token that comes back is the one that the caller would have drawn.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

namespace awq {

// Hidden states after a forward, [tokens, hidden], kept where the model runs. Grown on demand, reused from step to step.
struct States {
  std::vector<float> host;
  std::shared_ptr<void> device;
};

// One row of a step's states, and the draw from its logits. What the numbers mean is in SamplingParams (runtime/sampling.h). Ids
// are of the vocabulary; within each list they differ.
struct RowDraw {
  int64_t row = 0;
  bool draws = false;  // else its logits are wanted, and nothing that follows counts
  float temperature = 0;
  int32_t top_k = 0;
  float top_p = 1, min_p = 0;
  double uniform = 0;  // in [0, 1): the token whose part of the sum of all weights, in the order of ids, it falls into
  // Changes to the logits, in this order: added; x / penalty or, of negative ones, x * penalty; subtracted.
  std::span<const std::pair<int32_t, float>> added = {};
  float repetition_penalty = 1;
  std::span<const int32_t> seen = {};
  std::span<const std::pair<int32_t, float>> subtracted = {};
};

// Answers to rows, reused from step to step.
struct DrawnRows {
  std::vector<int32_t> tokens;  // [rows]; -1: not drawn
  std::vector<float> logits;    // [rows not drawn, vocab], in their order, without any changes; may be longer
  std::vector<float> states;    // of the rows, on the CPU
};

}  // namespace awq
