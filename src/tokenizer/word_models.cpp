#include "tokenizer/word_models.h"

#include <algorithm>

#include "base/error.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/unicode.h"

namespace awq {
namespace {

constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // U+2581

}  // namespace

WordPiece::WordPiece(const ModelSpec& spec, const std::string& where)
    : TokenModel(spec, where), longest_word_(static_cast<size_t>(spec.longest_word)) {
  std::vector<std::pair<std::string_view, int32_t>> first, further;
  for (const auto& [token, id] : spec.vocab) {
    first.emplace_back(token, id);
    if (token.starts_with(spec.subword_prefix))
      further.emplace_back(std::string_view(token).substr(spec.subword_prefix.size()), id);
  }
  first_ = ByteTrie(std::move(first));
  further_ = ByteTrie(std::move(further));
}

void WordPiece::encode_word(std::string_view word, bool raw_bytes, std::vector<int32_t>& ids) const {
  if (raw_bytes) return encode_word(to_byte_level(word), false, ids);
  const size_t before = ids.size();
  const auto unknown = [&] {
    ids.resize(before);
    bool after_unknown = false;
    append_id(word, unk_, after_unknown, ids);
  };
  size_t code_points = 0;
  for (const char c : word) code_points += (static_cast<unsigned char>(c) & 0xc0) != 0x80;
  if (code_points > longest_word_) return unknown();
  for (size_t pos = 0; pos < word.size();) {
    const auto [length, id] = (pos == 0 ? first_ : further_).longest(word, pos);
    if (length == 0) return unknown();
    ids.push_back(id);
    pos += length;
  }
}

WholeWords::WholeWords(const ModelSpec& spec, const std::string& where)
    : TokenModel(spec, where), kind_(spec.kind) {
  if (kind_ != ModelKind::kCharacter) return;
  if (spec.types.size() != spec.vocab.size())
    fail(Code::kBadFile, "{}: expected {} types, one per token, got {}", where, spec.vocab.size(),
         spec.types.size());
  std::vector<std::pair<std::string_view, int32_t>> user_defined;
  for (size_t i = 0; i < spec.vocab.size(); ++i)
    if (spec.types[i] == PieceType::kUserDefined)
      user_defined.emplace_back(spec.vocab[i].first, spec.vocab[i].second);
  user_defined_ = ByteTrie(std::move(user_defined));
}

void WholeWords::encode_word(std::string_view word, bool raw_bytes, std::vector<int32_t>& ids) const {
  if (raw_bytes) return encode_word(to_byte_level(word), false, ids);
  bool after_unknown = false;
  for (size_t pos = 0; pos < word.size();) {
    size_t end = word.size();
    if (kind_ == ModelKind::kCharacter) {
      const size_t own = user_defined_.longest(word, pos).first;
      end = pos + (own > 0 ? own : utf8_length(word[pos]));
    } else if (kind_ == ModelKind::kWord) {
      end = std::min(word.find(kSpaceMark, pos + 1), word.size());
    }
    const std::string_view part = word.substr(pos, end - pos);
    append_id(part, id_of(part), after_unknown, ids);
    pos = end;
  }
}

}  // namespace awq
