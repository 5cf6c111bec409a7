// Every method on one model, measured alike: distance from the source on texts, speed, and what it answers to
// the same prompts.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "eval/perplexity.h"
#include "quant/side_by_side.h"

namespace awq {

struct MeasuredText {
  std::string name, sha256;
  std::vector<int32_t> tokens;
  WindowSpec spec;
};

struct CompareOptions {
  std::vector<MeasuredText> texts;
  int64_t limit = 0;                          // windows of each text; 0: all
  std::vector<std::vector<int32_t>> prompts;  // answered greedily
  int64_t answer_tokens = 40;
  bool speed = true;
  StatsFiles statistics;
};

struct Speed {
  double prefill_tokens_per_s = 0, decode_tokens_per_s = 0;  // medians of three; one sequence
};

struct Answer {
  std::vector<int32_t> tokens;
  int64_t first_difference = -1;  // from the source's answer; -1: none
};

struct ComparedRow {
  ContenderResult quantized;
  std::vector<Evaluation> texts;  // in the order of CompareOptions::texts
  Speed speed;
  std::vector<Answer> answers;
};

struct Comparison {
  SideBySide all;  // its results are moved to `rows`
  std::vector<ComparedRow> rows;
  Speed source_speed;
  std::vector<Answer> source_answers;
  int64_t source_bytes = 0;
};

Comparison compare_methods(const Checkpoint& checkpoint, const std::vector<Contender>& contenders,
                           const QuantizeInputs& inputs, const CompareOptions& options,
                           const ProgressFn& progress);

// Whether two rows' divergences on one text differ by no more than chance: the 95 % interval of the paired
// differences of their windows contains 0. With a single window nothing can be told apart: always a tie.
bool tied(const Divergence& a, const Divergence& b);

}  // namespace awq
