// What `awq compare` found, as a table, a JSON object and a page.
#pragma once
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "eval/compare.h"
#include "report/html.h"
#include "tokenizer/tokenizer.h"

namespace awq::cli {

// Everything a reader needs beside the numbers.
struct CompareFacts {
  std::string model, calibration, command, machine;
  int64_t calibration_tokens = 0;
  std::vector<std::string> text_names;
  std::vector<std::string> prompts;
  double seconds = 0;
  std::shared_ptr<const Tokenizer> tokenizer;
};

// One row per method, for one text; "≈" marks a KL that does not differ from the best by more than chance.
report::Table compare_table(const Comparison& c, const CompareFacts& facts, size_t text);
nlohmann::ordered_json compare_json(const Comparison& c, const CompareFacts& facts);
std::string compare_page(const Comparison& c, const CompareFacts& facts);

}  // namespace awq::cli
