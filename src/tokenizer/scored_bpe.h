// BPE as the SentencePiece library runs it: no list of merges, but a score for each piece. The two neighbours
// whose joined text is the piece of the highest score are joined, the leftmost first, until no two make a
// piece.
#pragma once
#include "tokenizer/byte_trie.h"
#include "tokenizer/token_model.h"

namespace awq {

class ScoredBpe final : public TokenModel {
 public:
  ScoredBpe(const ModelSpec& spec, const std::string& where);
  // Time grows as the length of the word, and as n log n with a small factor for the ranks that occur.
  void encode_word(std::string_view word, bool raw_bytes, std::vector<int32_t>& ids) const override;

 private:
  struct Symbol {
    std::string_view text;   // empty: joined into its left neighbour
    int32_t previous, next;  // neighbours by index, -1 at the ends
    bool frozen;             // a user-defined symbol stays alone
  };
  struct Piece {
    int32_t id, rank;  // rank: 0 for the highest score; equal for equal scores
    size_t entry;      // of the vocabulary
    bool unused;
  };
  using Halves =
      std::unordered_map<int32_t, size_t>;  // id of an unused piece: bytes of the left half it came from
  void cut(std::string_view word, std::vector<Symbol>& symbols) const;
  void merge(std::vector<Symbol>& symbols, Halves& halves) const;
  void append(std::string_view text, const Halves& halves, bool& after_unknown,
              std::vector<int32_t>& ids) const;

  std::unordered_map<std::string, Piece, StringHash, std::equal_to<>> pieces_;  // what merging may make
  ByteTrie user_defined_;
  size_t ranks_ = 0;
  size_t longest_ = 0;  // bytes of the longest piece
};

}  // namespace awq
