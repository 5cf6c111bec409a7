// Added and special tokens are looked for in the text before anything else; what lies between goes to the
// model.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "tokenizer/normalizer.h"
#include "tokenizer/spec.h"

namespace awq {

class AddedTokenMatcher {
 public:
  // contents[i]: the text to look for, for tokens[i]; empty ones are left out.
  AddedTokenMatcher(std::vector<AddedToken> tokens, std::vector<std::string> contents);

  struct Segment {
    int32_t id;             // -1: text
    std::string_view text;  // of the segment
  };
  // Leftmost matches, the longest first, as the options of each token allow.
  std::vector<Segment> split(std::string_view text) const;
  bool empty() const { return nodes_.size() == 1; }

 private:
  struct Node {
    int32_t token = -1;  // index of the token that ends here
  };
  const AddedToken* longest_at(std::string_view text, size_t pos, size_t& end) const;
  bool stands_alone(std::string_view text, size_t begin, size_t end) const;

  std::vector<AddedToken> tokens_;
  std::vector<Node> nodes_;                         // a trie; 0 is the root
  std::unordered_map<uint64_t, int32_t> children_;  // node << 8 | byte
  std::array<bool, 256> first_{};                   // bytes some token starts with
};

}  // namespace awq
