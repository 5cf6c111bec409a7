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

AddedTokenMatcher::AddedTokenMatcher(std::vector<AddedToken> tokens, const std::vector<std::string>& contents)
    : tokens_(std::move(tokens)) {
  std::vector<std::pair<std::string_view, int32_t>> entries;
  for (size_t t = tokens_.size(); t-- > 0;)  // of equal ones the first counts
    entries.emplace_back(contents[t], static_cast<int32_t>(t));
  trie_ = ByteTrie(std::move(entries));
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
    const auto [length, index] = trie_.longest(text, pos);
    if (length == 0) {
      ++pos;
      continue;
    }
    const AddedToken* token = &tokens_[index];
    size_t begin = pos, end = pos + length;
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
