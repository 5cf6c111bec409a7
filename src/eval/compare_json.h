// What a comparison found, as the JSON object "awq.compare/1" (docs/design.md).
#pragma once
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "eval/compare.h"
#include "quant/sample_count.h"
#include "tokenizer/tokenizer.h"

namespace awq {

// Everything a reader needs beside the numbers.
struct CompareFacts {
  std::string model, calibration, command, machine;
  int64_t calibration_tokens = 0, seq_len = 0;
  SampleChoice samples;
  std::vector<std::string> text_names;
  std::vector<std::string> prompts;
  double seconds = 0;
  std::shared_ptr<const Tokenizer> tokenizer;
};

// The row with the least KL on a text.
size_t best_row(const Comparison& c, size_t text);
// How far text number `text` lies from the calibration text, in a line.
std::string shift_text(const Comparison& c, const CompareFacts& facts, size_t text);
nlohmann::ordered_json compare_json(const Comparison& c, const CompareFacts& facts);

}  // namespace awq
