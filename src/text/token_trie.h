// A vocabulary as a tree of bytes, in which all tokens that a grammar lets through are found in one walk: a
// branch whose first bytes do not fit is left out as a whole.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace awq {

class TokenTrie {
 public:
  // A byte after those of the node's ancestors. Nodes stand in preorder; the branch of node i is [i, after).
  struct Node {
    int32_t after = 0;
    int32_t first_token = -1;  // the tokens that end here, linked by next_token(); -1: none
    uint16_t depth = 0;        // 1 for a first byte
    uint8_t byte = 0;
  };

  // Special tokens and those without bytes are not in the tree: no grammar asks for them.
  explicit TokenTrie(std::shared_ptr<const Tokenizer> tokenizer);

  const std::vector<Node>& nodes() const { return nodes_; }
  int32_t next_token(int32_t id) const { return next_token_[static_cast<size_t>(id)]; }
  int32_t vocab_size() const { return static_cast<int32_t>(next_token_.size()); }
  // "" for ids that are not in the tree.
  std::string bytes(int32_t id) const;
  uint16_t depth() const { return depth_; }  // the longest token's

 private:
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::vector<Node> nodes_;
  std::vector<int32_t> next_token_;  // [vocab]
  uint16_t depth_ = 0;
};

}  // namespace awq
