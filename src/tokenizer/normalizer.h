// Text normalization before tokens are looked for.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/spec.h"
#include "tokenizer/split_regex.h"

namespace awq {

class Normalizer {
 public:
  Normalizer(const std::vector<NormalizerStep>& steps, const std::string& where);
  bool empty() const { return steps_.empty(); }
  std::string apply(std::string_view text) const;  // valid UTF-8 in and out

 private:
  struct Step {
    NormalizerStep spec;
    std::vector<SplitRegex> pattern;  // one for a regular expression, else none
  };
  std::vector<Step> steps_;
};

// All occurrences of the pattern replaced; `regex` null: the literal text. An empty literal replaces nothing.
std::string replace_all(std::string_view text, const std::string& literal, const SplitRegex* regex,
                        std::string_view content);

}  // namespace awq
