// Unigram language model (Kudo 2018): of all ways to cut a word into pieces of the vocabulary, the one with
// the highest sum of log probabilities (Viterbi). Ties and rounding follow `tokenizers` for tokenizer.json
// and the SentencePiece library for its own models.
#pragma once
#include "tokenizer/byte_trie.h"
#include "tokenizer/token_model.h"

namespace awq {

class Unigram final : public TokenModel {
 public:
  Unigram(const ModelSpec& spec, const std::string& where);
  // Time grows with the length of the word times that of the longest chain of pieces inside one another.
  void encode_word(std::string_view word, bool raw_bytes, std::vector<int32_t>& ids) const override;

 private:
  struct Cut {
    size_t begin;
    int32_t id;
  };
  template <class Sum>
  void best_cuts(std::string_view word, std::vector<Cut>& ends) const;
  double score(int32_t id, size_t length) const;

  ByteTrie trie_;
  std::vector<double> scores_;      // by id
  std::vector<bool> user_defined_;  // by id; SentencePiece models only
  bool sentencepiece_;
  double min_score_;
};

// A score of a tokenizer.json as `tokenizers` has it, from the number that the file means.
double score_as_read(double exact);

}  // namespace awq
