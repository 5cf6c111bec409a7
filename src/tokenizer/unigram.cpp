#include "tokenizer/unigram.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <limits>

#include "base/error.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/unicode.h"

namespace awq {
namespace {

constexpr double kUnknownPenalty = 10.0;  // below the worst piece
// The SentencePiece library (0.2.3) keeps its single-precision sums within this of zero by subtracting the
// sum at hand from those of all places ahead that were reached.
constexpr double kLargestSum = 100'000;

}  // namespace

// serde_json, with which `tokenizers` reads its files, rounds the digits to a double and then divides: often
// one unit in the last place off, which decides ties between sums. Files hold the shortest digits that give a
// double back.
double score_as_read(double exact) {
  if (!std::isfinite(exact)) return exact;
  char text[32];
  const auto end =
      std::to_chars(text, text + sizeof text, std::fabs(exact), std::chars_format::scientific).ptr;
  uint64_t digits = 0;
  int decimals = 0;
  const char* c = text;
  for (bool fraction = false; c != end && *c != 'e'; ++c) {
    if (*c == '.') {
      fraction = true;
      continue;
    }
    digits = digits * 10 + static_cast<uint64_t>(*c - '0');
    decimals += fraction;
  }
  const int exponent = std::atoi(c + 1) - decimals;
  if (std::abs(exponent) > 308) return exact;
  // Read, not computed, so that the powers are exact to the last place.
  const double power = std::strtod(fmt::format("1e{}", std::abs(exponent)).c_str(), nullptr);
  const double value =
      exponent < 0 ? static_cast<double>(digits) / power : static_cast<double>(digits) * power;
  return std::signbit(exact) ? -value : value;
}

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
  std::vector<std::pair<std::string_view, int32_t>> entries;
  for (size_t i = 0; i < n; ++i) {
    const int32_t id = spec.vocab[i].second;
    if (id < 0 || static_cast<size_t>(id) >= n)
      fail(Code::kBadFile, "{}: expected ids 0 to {}, got {}", where, n - 1, id);
    scores_[id] = spec.scores[i];
    user_defined_[id] = type(i) == PieceType::kUserDefined;
    if (type(i) == PieceType::kNormal) min_score_ = std::min(min_score_, spec.scores[i]);
    // Of pieces written alike only the last is found; an unused one is found by nobody.
    if (type(i) == PieceType::kNormal || type(i) == PieceType::kUserDefined)
      entries.emplace_back(spec.vocab[i].first, id);
  }
  trie_ = ByteTrie(std::move(entries));
}

// User-defined symbols beat every piece (SentencePiece 0.2.3; earlier versions had another bonus, and other
// ties).
double Unigram::score(int32_t id, size_t length) const {
  return user_defined_[id] ? static_cast<double>(static_cast<float>(length) * 0.1f - 0.1f) : scores_[id];
}

// ends[i]: the last piece of the best way to cut the first i bytes. Sum: double, or float where sums are
// rounded as the SentencePiece library does.
template <class Sum>
void Unigram::best_cuts(std::string_view word, std::vector<Cut>& ends) const {
  constexpr size_t kNone = std::string_view::npos;
  thread_local std::vector<Sum> sums;
  sums.assign(word.size() + 1, 0);
  ends.assign(word.size() + 1, {kNone, -1});
  const Sum unknown = static_cast<Sum>(min_score_) - static_cast<Sum>(kUnknownPenalty);
  size_t furthest = 0;  // where the pieces found so far end at the latest
  for (size_t begin = 0; begin < word.size();) {
    const size_t character = utf8_length(word[begin]);
    if (sentencepiece_ && std::fabs(sums[begin]) > kLargestSum) {
      const Sum passed = sums[begin];
      for (size_t i = begin; i <= furthest; ++i)
        if (i == begin || ends[i].begin != kNone) sums[i] -= passed;
    }
    const Sum here = sums[begin];
    const auto offer = [&](size_t end, int32_t id, double added) {
      furthest = std::max(furthest, end);
      const auto sum = static_cast<Sum>(added + static_cast<double>(here));
      if (ends[end].begin != kNone && !(sum > sums[end])) return;
      sums[end] = sum;
      ends[end] = {begin, id};
    };
    bool whole_character = false;
    trie_.each_prefix(word, begin, [&](size_t length, int32_t id) {
      // Text that spells the unknown token is unknown to `tokenizers`, at that token's score.
      offer(begin + length, unk_ == id ? -1 : id, score(id, length));
      whole_character |= length == character;
    });
    if (!whole_character) offer(begin + character, -1, static_cast<double>(unknown));
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
    append_id(text,
              id >= 0          ? std::optional(id)
              : sentencepiece_ ? std::nullopt
                               : id_of(text),
              after_unknown, ids);
  }
}

}  // namespace awq
