#include "tokenizer/added_tokens.h"

#include <algorithm>
#include <utility>

#include "tokenizer/unicode.h"

namespace awq {
namespace {

// Start of the run of white space that ends at `pos`, at least `floor`; end of the run that starts at `pos`.
size_t space_before(std::string_view text, size_t floor, size_t pos) {
  while (pos > floor) {
    size_t previous = pos;
    if (!is_white_space(previous_code_point(text, previous))) break;
    pos = previous;
  }
  return pos;
}
size_t space_after(std::string_view text, size_t pos) {
  while (pos < text.size()) {
    size_t next = pos;
    if (!is_white_space(next_code_point(text, next))) break;
    pos = next;
  }
  return pos;
}

}  // namespace

AddedTokenMatcher::AddedTokenMatcher(std::vector<AddedToken> tokens, std::vector<std::string> contents)
    : tokens_(std::move(tokens)), nodes_(1) {
  for (size_t t = 0; t < tokens_.size(); ++t) {
    int32_t node = 0;
    for (const char c : contents[t]) {
      const auto byte = static_cast<unsigned char>(c);
      const auto [it, fresh] =
          children_.try_emplace(static_cast<uint64_t>(node) << 8 | byte, static_cast<int32_t>(nodes_.size()));
      if (fresh) nodes_.emplace_back();
      node = it->second;
    }
    if (node == 0) continue;
    first_[static_cast<unsigned char>(contents[t][0])] = true;
    if (nodes_[node].token < 0) nodes_[node].token = static_cast<int32_t>(t);
  }
}

const AddedToken* AddedTokenMatcher::longest_at(std::string_view text, size_t pos, size_t& end) const {
  const AddedToken* best = nullptr;
  int32_t node = 0;
  for (size_t i = pos; i < text.size(); ++i) {
    const auto it = children_.find(static_cast<uint64_t>(node) << 8 | static_cast<unsigned char>(text[i]));
    if (it == children_.end()) break;
    node = it->second;
    if (nodes_[node].token < 0) continue;
    best = &tokens_[nodes_[node].token];
    end = i + 1;
  }
  return best;
}

bool AddedTokenMatcher::stands_alone(std::string_view text, size_t begin, size_t end) const {
  if (begin > 0) {
    size_t pos = begin;
    if (is_word(previous_code_point(text, pos))) return false;
  }
  if (end < text.size()) {
    size_t pos = end;
    if (is_word(next_code_point(text, pos))) return false;
  }
  return true;
}

std::vector<AddedTokenMatcher::Segment> AddedTokenMatcher::split(std::string_view text) const {
  std::vector<Segment> out;
  size_t done = 0,
         space_end = 0;  // space_end: of the last run of space looked at, so that none is read twice
  for (size_t pos = 0; pos < text.size();) {
    size_t end = 0;
    const AddedToken* token =
        first_[static_cast<unsigned char>(text[pos])] ? longest_at(text, pos, end) : nullptr;
    if (!token) {
      ++pos;
      continue;
    }
    size_t begin = pos;
    pos = end;
    if (token->single_word && !stands_alone(text, begin, end)) continue;
    if (token->lstrip) begin = std::max(done, space_before(text, done, begin));
    if (token->rstrip) space_end = end = end <= space_end ? space_end : space_after(text, end);
    if (begin > done) out.push_back({-1, text.substr(done, begin - done)});
    // Where an earlier rstrip took the whole match, lstrip leaves nothing of it, and the token does not
    // count.
    if (begin < end) out.push_back({token->id, text.substr(begin, end - begin)});
    done = end;
  }
  if (done < text.size()) out.push_back({-1, text.substr(done)});
  return out;
}

}  // namespace awq
