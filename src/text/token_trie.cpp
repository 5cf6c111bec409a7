#include "text/token_trie.h"

#include <algorithm>

namespace awq {
namespace {

// Longer tokens (a vocabulary may hold runs of hundreds of spaces) are left out: they are never needed.
constexpr size_t kLongest = 1024;

}  // namespace

TokenTrie::TokenTrie(std::shared_ptr<const Tokenizer> tokenizer) : tokenizer_(std::move(tokenizer)) {
  const int32_t vocab = tokenizer_->vocab_size();
  next_token_.assign(static_cast<size_t>(vocab), -1);
  std::vector<std::pair<std::string, int32_t>> tokens;
  for (int32_t id = 0; id < vocab; ++id)
    if (std::string text = bytes(id); !text.empty() && text.size() <= kLongest)
      tokens.emplace_back(std::move(text), id);
  std::sort(tokens.begin(), tokens.end());

  std::vector<int32_t> path;  // nodes of the token before
  const auto close = [&](size_t depth) {
    for (; path.size() > depth; path.pop_back())
      nodes_[static_cast<size_t>(path.back())].after = static_cast<int32_t>(nodes_.size());
  };
  std::string_view before;
  for (const auto& [text, id] : tokens) {
    const auto differs = std::mismatch(before.begin(), before.end(), text.begin(), text.end()).first;
    close(static_cast<size_t>(differs - before.begin()));
    for (size_t i = path.size(); i < text.size(); ++i) {
      path.push_back(static_cast<int32_t>(nodes_.size()));
      nodes_.push_back({.depth = static_cast<uint16_t>(i + 1), .byte = static_cast<uint8_t>(text[i])});
    }
    depth_ = std::max(depth_, static_cast<uint16_t>(text.size()));
    Node& node = nodes_[static_cast<size_t>(path.back())];
    next_token_[static_cast<size_t>(id)] = node.first_token;
    node.first_token = id;
    before = text;
  }
  close(0);
}

std::string TokenTrie::bytes(int32_t id) const {
  return tokenizer_->is_special(id) ? std::string() : tokenizer_->token_bytes(id);
}

}  // namespace awq
