#include "tokenizer/token_model.h"

#include <algorithm>

#include "base/error.h"
#include "tokenizer/bpe.h"
#include "tokenizer/scored_bpe.h"
#include "tokenizer/unigram.h"
#include "tokenizer/word_models.h"

namespace awq {

TokenModel::TokenModel(const ModelSpec& spec, const std::string& where)
    : byte_fallback_(spec.byte_fallback), where_(where) {
  ids_.reserve(spec.vocab.size());
  for (const auto& [token, id] : spec.vocab) ids_[token] = id;
  for (int b = 0; b < 256; ++b) byte_fallback_ids_[b] = id_of(fmt::format("<0x{:02X}>", b)).value_or(-1);
  unk_ = spec.unk_id;
  if (!unk_ && spec.unk_token) unk_ = id_of(*spec.unk_token);
}

bool TokenModel::append_bytes(std::string_view text, std::vector<int32_t>& ids) const {
  const auto id = [&](char b) { return byte_fallback_ids_[static_cast<unsigned char>(b)]; };
  if (!std::all_of(text.begin(), text.end(), [&](char b) { return id(b) >= 0; })) return false;
  for (const char b : text) ids.push_back(id(b));
  return true;
}

void TokenModel::append_id(std::string_view text, std::optional<int32_t> id, bool& after_unknown,
                           std::vector<int32_t>& ids) const {
  if (id) {
    ids.push_back(*id);
  } else if (!(byte_fallback_ && append_bytes(text, ids))) {
    if (!unk_)
      fail(Code::kUnsupported, "{}: the vocabulary has no unknown token, which '{}' needs", where_,
           text.substr(0, 80));
    if (!after_unknown) ids.push_back(*unk_);
  }
  after_unknown = !id;
}

std::unique_ptr<const TokenModel> TokenModel::make(const ModelSpec& spec, const std::string& where) {
  switch (spec.kind) {
    case ModelKind::kBpe:
      return std::make_unique<Bpe>(spec, where);
    case ModelKind::kUnigram:
      return std::make_unique<Unigram>(spec, where);
    case ModelKind::kWordPiece:
      return std::make_unique<WordPiece>(spec, where);
    case ModelKind::kScoredBpe:
      return std::make_unique<ScoredBpe>(spec, where);
    case ModelKind::kWordLevel:
    case ModelKind::kCharacter:
    case ModelKind::kWord:
      return std::make_unique<WholeWords>(spec, where);
  }
  fail(Code::kInternal, "unknown kind of tokenizer model");
}

}  // namespace awq
