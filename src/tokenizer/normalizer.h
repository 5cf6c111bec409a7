// Text normalization before tokens are looked for.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/byte_trie.h"
#include "tokenizer/charsmap.h"
#include "tokenizer/spec.h"
#include "tokenizer/split_regex.h"

namespace awq {

class Normalizer {
 public:
  Normalizer(const std::vector<NormalizerStep>& steps, const std::string& where);
  bool empty() const { return steps_.empty(); }
  // Valid UTF-8 in and out. `at_start`: the text begins where the whole input begins.
  std::string apply(std::string_view text, bool at_start = true) const;

 private:
  struct Step {
    NormalizerStep spec;
    std::vector<SplitRegex> pattern;  // one for a regular expression, else none
    Charsmap charsmap;
    ByteTrie user_defined;
  };
  std::vector<Step> steps_;
};

// What the SentencePiece library makes of a text before its model sees it. `user_defined`: the keys are the
// symbols of rules.user_defined.
std::string sentencepiece_normalize(std::string_view text, const SentencePieceRules& rules,
                                    const Charsmap& charsmap, const ByteTrie& user_defined, bool at_start);

// All occurrences of the pattern replaced; `regex` null: the literal text. An empty literal replaces nothing.
std::string replace_all(std::string_view text, const std::string& literal, const SplitRegex* regex,
                        std::string_view content);

}  // namespace awq
