// The models that look words or characters up, without statistics.
#pragma once
#include "tokenizer/byte_trie.h"
#include "tokenizer/token_model.h"

namespace awq {

// WordPiece (Wu et al. 2016, as BERT uses it): the longest piece that begins the word, then the longest one
// that continues it, marked by a prefix ("##"). A word that cannot be cut so, or is too long, is unknown as a
// whole.
class WordPiece final : public TokenModel {
 public:
  WordPiece(const ModelSpec& spec, const std::string& where);
  void encode_word(std::string_view word, bool raw_bytes, std::vector<int32_t>& ids) const override;

 private:
  ByteTrie first_, further_;
  size_t longest_word_;  // code points
};

// kWordLevel: a word is a token or unknown. kCharacter, kWord: SentencePiece's models of characters (and
// user-defined symbols) and of words, which begin at each U+2581.
class WholeWords final : public TokenModel {
 public:
  WholeWords(const ModelSpec& spec, const std::string& where);
  void encode_word(std::string_view word, bool raw_bytes, std::vector<int32_t>& ids) const override;

 private:
  ModelKind kind_;
  ByteTrie user_defined_;
};

}  // namespace awq
