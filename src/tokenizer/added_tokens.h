// Added and special tokens are looked for in the text before anything else; what lies between goes to the
// model.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/byte_trie.h"
#include "tokenizer/spec.h"

namespace awq {

class AddedTokenMatcher {
 public:
  // contents[i]: the text to look for, for tokens[i]; empty ones are left out.
  AddedTokenMatcher(std::vector<AddedToken> tokens, const std::vector<std::string>& contents);

  struct Segment {
    int32_t id;             // -1: text
    std::string_view text;  // of the segment
  };
  // Leftmost matches, the longest first, as the options of each token allow.
  std::vector<Segment> split(std::string_view text) const;
  bool empty() const { return trie_.empty(); }

 private:
  bool stands_alone(std::string_view text, size_t begin, size_t end) const;

  std::vector<AddedToken> tokens_;
  ByteTrie trie_;  // values: indices of tokens_
};

}  // namespace awq
