#include "tokenizer/tokenizer.h"

#include <algorithm>
#include <unordered_set>
#include <utility>

#include "base/error.h"
#include "tokenizer/added_tokens.h"
#include "tokenizer/decoder.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/spec.h"
#include "tokenizer/token_model.h"
#include "tokenizer/unicode.h"
#include "tokenizer/word_cache.h"

namespace awq {
namespace {

// Ids index arrays here and rows of the embedding, so a file must not name one far beyond what it lists.
constexpr int64_t kMostUnusedIds = 1 << 20;

class ModelTokenizer final : public Tokenizer {
 public:
  ModelTokenizer(const TokenizerSpec& spec, const std::string& where);

  std::vector<int32_t> encode(std::string_view text, bool add_special_tokens) const override;
  std::string decode(std::span<const int32_t> ids, bool skip_special_tokens) const override;
  std::string token_bytes(int32_t id, bool at_start) const override;
  bool is_special(int32_t id) const override { return known(id) && special_[id]; }
  std::optional<int32_t> id_of(std::string_view token) const override;
  int32_t vocab_size() const override { return static_cast<int32_t>(tokens_.size()); }

 private:
  bool known(int32_t id) const { return id >= 0 && id < vocab_size() && known_[id]; }
  void place(const std::string& token, int32_t id, const std::string& where);
  AddedTokenMatcher matcher(const std::vector<AddedToken>& added, bool normalized) const;
  void encode_segment(std::string_view text, bool at_start, std::vector<int32_t>& ids) const;
  void encode_word(std::string_view word, std::vector<int32_t>& ids) const;

  Normalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  std::unique_ptr<const TokenModel> model_;
  Decoder decoder_;
  std::vector<PostStep> post_;
  AddedTokenMatcher raw_added_, normalized_added_;
  TokenIds added_ids_;
  std::vector<std::string> tokens_;  // by id
  std::vector<bool> known_, special_;
  mutable WordCache cache_;
};

ModelTokenizer::ModelTokenizer(const TokenizerSpec& spec, const std::string& where)
    : normalizer_(spec.normalizer, where),
      pre_tokenizer_(spec.pre_tokenizer, where),
      model_(TokenModel::make(spec.model, where)),
      decoder_(spec.decoder, where),
      post_(spec.post_processor),
      raw_added_(matcher(spec.added_tokens, false)),
      normalized_added_(matcher(spec.added_tokens, true)) {
  const auto entries = static_cast<int64_t>(spec.model.vocab.size() + spec.added_tokens.size());
  int64_t highest = -1;
  for (const auto& [token, id] : spec.model.vocab) highest = std::max<int64_t>(highest, id);
  for (const AddedToken& t : spec.added_tokens) highest = std::max<int64_t>(highest, t.id);
  if (highest >= entries + kMostUnusedIds)
    fail(Code::kBadFile, "{}: expected ids near 0..{}, got {}", where, entries - 1, highest);
  tokens_.resize(highest + 1);
  known_.resize(highest + 1);
  special_.resize(highest + 1);
  for (const auto& [token, id] : spec.model.vocab) place(token, id, where);
  for (const AddedToken& t : spec.added_tokens) {
    if (t.content.empty()) continue;
    const auto in_vocab = model_->id_of(t.content);
    if (in_vocab && *in_vocab != t.id)
      fail(Code::kBadFile, "{}: added token '{}': expected id {} of the vocabulary, got {}", where, t.content,
           *in_vocab, t.id);
    if (!in_vocab) place(t.content, t.id, where);
    added_ids_[t.content] = t.id;
    if (t.special) special_[t.id] = true;
  }
  for (const PostStep& step : post_)
    for (const auto* side : {&step.before, &step.after})
      for (const int32_t id : *side)
        if (!known(id))
          fail(Code::kBadFile, "{}: post_processor: expected an id of the vocabulary, got {}", where, id);
}

void ModelTokenizer::place(const std::string& token, int32_t id, const std::string& where) {
  if (id < 0) fail(Code::kBadFile, "{}: token '{}': expected an id of 0 or more, got {}", where, token, id);
  if (known_[id])
    fail(Code::kBadFile, "{}: id {}: expected one token, got '{}' and '{}'", where, id, tokens_[id], token);
  tokens_[id] = token;
  known_[id] = true;
}

// Tokens that are looked for before (false) or after (true) normalization.
AddedTokenMatcher ModelTokenizer::matcher(const std::vector<AddedToken>& added, bool normalized) const {
  std::vector<AddedToken> tokens;
  std::vector<std::string> contents;
  for (const AddedToken& t : added) {
    if (t.normalized != normalized) continue;
    tokens.push_back(t);
    contents.push_back(normalized ? normalizer_.apply(t.content) : t.content);
  }
  return {std::move(tokens), std::move(contents)};
}

std::vector<int32_t> ModelTokenizer::encode(std::string_view text, bool add_special_tokens) const {
  std::string repaired;
  if (!is_valid_utf8(text)) text = repaired = replace_invalid_utf8(text);
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 3 + 8);
  for (const auto& segment : raw_added_.split(text)) {
    if (segment.id >= 0) {
      ids.push_back(segment.id);
      continue;
    }
    const bool at_start = segment.text.data() == text.data();
    if (normalizer_.empty()) {
      encode_segment(segment.text, at_start, ids);
    } else {
      encode_segment(normalizer_.apply(segment.text, at_start), at_start, ids);
    }
  }
  if (!add_special_tokens) return ids;
  for (const PostStep& step : post_) {
    ids.insert(ids.begin(), step.before.begin(), step.before.end());
    ids.insert(ids.end(), step.after.begin(), step.after.end());
  }
  return ids;
}

void ModelTokenizer::encode_segment(std::string_view text, bool at_start, std::vector<int32_t>& ids) const {
  for (const auto& segment : normalized_added_.split(text)) {
    if (segment.id >= 0) {
      ids.push_back(segment.id);
      continue;
    }
    std::deque<std::string> owned;
    const bool first = at_start && segment.text.data() == text.data();
    for (const auto& piece : pre_tokenizer_.split(segment.text, first, owned)) encode_word(piece.text, ids);
  }
}

void ModelTokenizer::encode_word(std::string_view word, std::vector<int32_t>& ids) const {
  const bool cached = word.size() > 1 && word.size() <= WordCache::kLongestWord;
  if (cached && cache_.append(word, ids)) return;
  const size_t before = ids.size();
  model_->encode_word(word, pre_tokenizer_.byte_level(), ids);
  if (cached) cache_.put(word, {ids.begin() + static_cast<ptrdiff_t>(before), ids.end()});
}

std::string ModelTokenizer::decode(std::span<const int32_t> ids, bool skip_special_tokens) const {
  std::vector<std::string> tokens;
  tokens.reserve(ids.size());
  for (const int32_t id : ids)
    if (known(id) && !(skip_special_tokens && special_[id])) tokens.push_back(tokens_[id]);
  return replace_invalid_utf8(decoder_.decode(std::move(tokens)));
}

std::string ModelTokenizer::token_bytes(int32_t id, bool at_start) const {
  return known(id) ? decoder_.token_bytes(tokens_[id], at_start) : std::string();
}

std::optional<int32_t> ModelTokenizer::id_of(std::string_view token) const {
  if (const auto it = added_ids_.find(token); it != added_ids_.end()) return it->second;
  return model_->id_of(token);
}

}  // namespace

std::shared_ptr<const Tokenizer> make_tokenizer(const TokenizerSpec& spec, const std::string& where) {
  return std::make_shared<ModelTokenizer>(spec, where);
}

std::shared_ptr<const Tokenizer> Tokenizer::from_json(std::string_view json, const std::string& where) {
  return make_tokenizer(read_tokenizer_json(json, where), where);
}

std::shared_ptr<const Tokenizer> Tokenizer::from_sentencepiece(std::string_view model,
                                                               const std::string& where) {
  return make_tokenizer(spec_from_sentencepiece(model, where), where);
}

std::shared_ptr<const Tokenizer> Tokenizer::from_gguf(const GgufVocab& vocab, const std::string& where) {
  return make_tokenizer(spec_from_gguf(vocab, where), where);
}

}  // namespace awq
