#include "tokenizer/unigram.h"

#include <algorithm>
#include <limits>

#include "base/error.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/unicode.h"

namespace awq {
namespace {

constexpr double kUnknownPenalty = 10.0;  // below the worst piece

}  // namespace

Unigram::Unigram(const ModelSpec& spec, const std::string& where)
    : TokenModel(spec, where),
      scores_(spec.vocab.size()),
      user_defined_(spec.vocab.size()),
      sentencepiece_(!spec.types.empty()) {
  const size_t n = spec.vocab.size();
  if (spec.scores.size() != n || (sentencepiece_ && spec.types.size() != n))
    fail(Code::kBadFile, "{}: expected {} scores, one per token, got {}", where, n, spec.scores.size());
  const auto type = [&](size_t i) { return sentencepiece_ ? spec.types[i] : PieceType::kNormal; };
  min_score_ = std::numeric_limits<double>::infinity();
  max_score_ = std::numeric_limits<float>::min();  // as the SentencePiece library starts
  std::vector<std::pair<std::string_view, int32_t>> entries;
  for (size_t i = 0; i < n; ++i) {
    const int32_t id = spec.vocab[i].second;
    if (id < 0 || static_cast<size_t>(id) >= n)
      fail(Code::kBadFile, "{}: expected ids 0 to {}, got {}", where, n - 1, id);
    scores_[id] = spec.scores[i];
    user_defined_[id] = type(i) == PieceType::kUserDefined;
    if (type(i) == PieceType::kNormal) {
      min_score_ = std::min(min_score_, spec.scores[i]);
      max_score_ = std::max(max_score_, spec.scores[i]);
    }
    // Of pieces written alike only the last is found; an unused one is found by nobody.
    if (type(i) == PieceType::kNormal || type(i) == PieceType::kUserDefined)
      entries.emplace_back(spec.vocab[i].first, id);
  }
  trie_ = ByteTrie(std::move(entries));
}

double Unigram::score(int32_t id, size_t length) const {
  if (!user_defined_[id]) return scores_[id];
  return static_cast<double>(static_cast<float>(length) * static_cast<float>(max_score_)) - 0.1;
}

// ends[i]: the last piece of the best way to cut the first i bytes. Sum: double, or float where sums are rounded as
// the SentencePiece library does.
template <class Sum>
void Unigram::best_cuts(std::string_view word, std::vector<Cut>& ends) const {
  constexpr size_t kNone = std::string_view::npos;
  thread_local std::vector<Sum> sums;
  sums.assign(word.size() + 1, 0);
  ends.assign(word.size() + 1, {kNone, -1});
  const Sum unknown = static_cast<Sum>(min_score_) - static_cast<Sum>(kUnknownPenalty);
  for (size_t begin = 0; begin < word.size();) {
    const size_t character = utf8_length(word[begin]);
    const Sum here = sums[begin];
    const auto offer = [&](size_t end, int32_t id, double sum) {
      if (ends[end].begin != kNone && !(sum > static_cast<double>(sums[end]))) return;
      sums[end] = static_cast<Sum>(sum);
      ends[end] = {begin, id};
    };
    bool whole_character = false;
    trie_.each_prefix(word, begin, [&](size_t length, int32_t id) {
      // Text that spells the unknown token is unknown to `tokenizers`, at that token's score.
      offer(begin + length, unk_ == id ? -1 : id, score(id, length) + static_cast<double>(here));
      whole_character |= length == character;
    });
    if (!whole_character) offer(begin + character, -1, static_cast<double>(static_cast<Sum>(unknown + here)));
    begin += character;
  }
}

void Unigram::encode_word(std::string_view word, bool raw_bytes, std::vector<int32_t>& ids) const {
  if (raw_bytes) return encode_word(to_byte_level(word), false, ids);
  thread_local std::vector<Cut> ends;
  if (sentencepiece_) {
    best_cuts<float>(word, ends);
  } else {
    best_cuts<double>(word, ends);
  }
  thread_local std::vector<std::pair<std::string_view, int32_t>> pieces;  // from the last to the first
  pieces.clear();
  for (size_t end = word.size(); end > 0; end = ends[end].begin) {
    const size_t begin = ends[end].begin;
    const int32_t id = ends[end].id;
    if (id < 0 && !pieces.empty() && pieces.back().second < 0) {  // neighbours that are unknown become one
      const std::string_view behind = pieces.back().first;
      pieces.back().first = word.substr(begin, end - begin + behind.size());
    } else {
      pieces.emplace_back(word.substr(begin, end - begin), id);
    }
  }
  for (size_t i = pieces.size(); i-- > 0;) {
    const auto& [text, id] = pieces[i];
    bool after_unknown = false;
    // `tokenizers` looks joined unknown text up once more.
    append_id(text, id >= 0 ? std::optional(id) : sentencepiece_ ? std::nullopt : id_of(text), after_unknown, ids);
  }
}

}  // namespace awq
