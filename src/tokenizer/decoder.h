// Tokens back to text.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/charsmap.h"
#include "tokenizer/spec.h"
#include "tokenizer/split_regex.h"

namespace awq {

class Decoder {
 public:
  Decoder(const std::vector<DecoderStep>& steps, const std::string& where);
  // Without steps the tokens are joined by spaces, as `tokenizers` does.
  std::string decode(std::vector<std::string> tokens) const;
  // Of one token, what no neighbour can change: in the middle of a text, or as its first token.
  std::string token_bytes(std::string_view token, bool at_start) const;

 private:
  struct Step {
    DecoderStep spec;
    std::vector<SplitRegex> regex;
    Charsmap charsmap;
  };
  std::vector<Step> steps_;
};

}  // namespace awq
