// Byte pair encoding (Sennrich et al. 2016): a word starts as its characters (or bytes); the adjacent pair
// that comes first in the list of merges is joined, the leftmost first, until no pair is in the list.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/token_model.h"

namespace awq {

// Open-addressing map from a pair of token ids to its merge; built once, then read only.
class MergeTable {
 public:
  struct Merge {
    int32_t rank, id;  // place in the list; the token it makes
  };
  explicit MergeTable(size_t pairs);
  void put(int32_t left, int32_t right, Merge merge);
  const Merge* find(int32_t left, int32_t right) const;

 private:
  struct Slot {
    uint64_t key;
    Merge merge;
  };
  size_t slot_of(uint64_t key) const;
  std::vector<Slot> slots_;
  size_t mask_;
};

class Bpe final : public TokenModel {
 public:
  // kBadFile: a merge of tokens that are not in the vocabulary.
  Bpe(const ModelSpec& spec, const std::string& where);

  // Time grows as the length of the word, and as n log n with a small factor for the ranks that occur.
  void encode_word(std::string_view word, bool raw_bytes, std::vector<int32_t>& ids) const override;

 private:
  struct Symbol {
    int32_t id, previous, next;  // neighbours by index, -1 at the ends; id -1: joined into its left neighbour
  };
  using Symbols = std::vector<Symbol>;
  void symbols_of_bytes(std::string_view word, Symbols& symbols) const;
  void symbols_of_text(std::string_view word, Symbols& symbols) const;
  template <class Push>
  void apply(Symbols& symbols, int32_t at, int32_t id, Push push) const;
  template <class Note>
  void offer(const Symbols& symbols, int32_t left, Note note) const;
  void merge(Symbols& symbols) const;
  void merge_long(Symbols& symbols) const;

  MergeTable merges_;
  size_t ranks_;
  std::array<int32_t, 256> byte_ids_;  // of the byte-level characters; -1: not in the vocabulary
  bool whole_alphabet_ = true;         // byte_ids_ has them all, and no prefix or suffix changes them
  std::string subword_prefix_, word_suffix_;
  bool fuse_unk_, ignore_merges_;
};

}  // namespace awq
