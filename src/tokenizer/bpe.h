// Byte pair encoding (Sennrich et al. 2016): a word starts as its characters (or bytes); the adjacent pair
// that comes first in the list of merges is joined, the leftmost first, until no pair is in the list.
#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "tokenizer/spec.h"

namespace awq {

struct StringHash {
  using is_transparent = void;
  size_t operator()(std::string_view s) const { return std::hash<std::string_view>{}(s); }
};
using TokenIds = std::unordered_map<std::string, int32_t, StringHash, std::equal_to<>>;

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

class Bpe {
 public:
  // kBadFile: an id twice, a merge of tokens that are not in the vocabulary.
  Bpe(const BpeSpec& spec, const std::string& where);

  // Appends the ids of one word. `raw_bytes`: bytes that the byte-level alphabet stands for; otherwise UTF-8
  // text. Time grows as n log n in the length of the word.
  void encode_word(std::string_view word, bool raw_bytes, std::vector<int32_t>& ids) const;

  std::optional<int32_t> id_of(std::string_view token) const;

 private:
  struct Symbol {
    int32_t id, previous, next;  // neighbours by index, -1 at the ends; id -1: joined into its left neighbour
  };
  void append_symbol(std::string_view character, std::vector<Symbol>& symbols, bool& after_unknown) const;
  void merge(std::vector<Symbol>& symbols) const;

  TokenIds ids_;
  MergeTable merges_;
  std::array<int32_t, 256> byte_ids_;      // of the byte-level characters; -1: not in the vocabulary
  std::array<int32_t, 256> fallback_ids_;  // of "<0x00>" ... "<0xFF>"
  std::optional<int32_t> unk_;
  bool fuse_unk_, byte_fallback_, ignore_merges_;
};

}  // namespace awq
