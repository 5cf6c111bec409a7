#include "tokenizer/bpe.h"

#include <algorithm>
#include <bit>

#include "base/error.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/rank_queue.h"
#include "tokenizer/unicode.h"

namespace awq {
namespace {

constexpr int32_t kLongWord = 128;         // symbols, from which on lists by rank are faster than one heap
constexpr uint64_t kEmpty = ~uint64_t{0};  // no pair: ids are not negative

uint64_t pair_key(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

// A pair that may be merged: the lowest rank first, then the leftmost.
struct Candidate {
  int32_t rank, left, id;
  bool operator<(const Candidate& o) const { return rank != o.rank ? rank > o.rank : left > o.left; }
};

}  // namespace

MergeTable::MergeTable(size_t pairs)
    : slots_(std::bit_ceil(pairs * 2 + 2), Slot{kEmpty, {0, 0}}), mask_(slots_.size() - 1) {}

size_t MergeTable::slot_of(uint64_t key) const {
  uint64_t h = key * 0x9e3779b97f4a7c15u;
  size_t i = (h ^ h >> 32) & mask_;
  while (slots_[i].key != key && slots_[i].key != kEmpty) i = (i + 1) & mask_;
  return i;
}

void MergeTable::put(int32_t left, int32_t right, Merge merge) {
  const uint64_t key = pair_key(left, right);
  slots_[slot_of(key)] = {key, merge};
}

const MergeTable::Merge* MergeTable::find(int32_t left, int32_t right) const {
  const Slot& slot = slots_[slot_of(pair_key(left, right))];
  return slot.key == kEmpty ? nullptr : &slot.merge;
}

Bpe::Bpe(const ModelSpec& spec, const std::string& where)
    : TokenModel(spec, where),
      merges_(spec.merges.size()),
      ranks_(spec.merges.size()),
      subword_prefix_(spec.subword_prefix),
      word_suffix_(spec.word_suffix),
      fuse_unk_(spec.fuse_unk),
      ignore_merges_(spec.ignore_merges) {
  const auto need = [&](const std::string& token, size_t rank) {
    const auto id = id_of(token);
    if (!id)
      fail(Code::kBadFile, "{}: merge {}: expected tokens of the vocabulary, got '{}'", where, rank, token);
    return *id;
  };
  for (size_t rank = 0; rank < spec.merges.size(); ++rank) {
    const auto& [left, right] = spec.merges[rank];
    const int32_t l = need(left, rank), r = need(right, rank);
    const size_t prefix = std::min(subword_prefix_.size(), right.size());
    merges_.put(l, r, {static_cast<int32_t>(rank), need(left + right.substr(prefix), rank)});
  }
  whole_alphabet_ = subword_prefix_.empty() && word_suffix_.empty();
  for (int b = 0; b < 256; ++b) {
    std::string character;
    append_utf8(character, byte_level_char(static_cast<unsigned char>(b)));
    byte_ids_[b] = id_of(character).value_or(-1);
    whole_alphabet_ &= byte_ids_[b] >= 0;
  }
}

void Bpe::encode_word(std::string_view word, bool raw_bytes, std::vector<int32_t>& ids) const {
  if (raw_bytes && whole_alphabet_ && word.size() == 1)
    return ids.push_back(byte_ids_[static_cast<unsigned char>(word[0])]);
  if (raw_bytes && (!whole_alphabet_ || ignore_merges_)) {
    const std::string text = to_byte_level(word);
    if (!whole_alphabet_) return encode_word(text, false, ids);
    if (const auto id = id_of(text)) return ids.push_back(*id);
  } else if (ignore_merges_) {
    if (const auto id = id_of(word)) return ids.push_back(*id);
  }
  thread_local Symbols symbols;
  symbols.clear();
  if (raw_bytes) {
    symbols_of_bytes(word, symbols);
  } else {
    symbols_of_text(word, symbols);
  }
  if (symbols.empty()) return;
  symbols.back().next = -1;
  merge(symbols);
  for (int32_t i = 0; i >= 0; i = symbols[i].next) ids.push_back(symbols[i].id);
}

void Bpe::symbols_of_bytes(std::string_view word, Symbols& symbols) const {
  for (const char byte : word) {
    const auto n = static_cast<int32_t>(symbols.size());
    symbols.push_back({byte_ids_[static_cast<unsigned char>(byte)], n - 1, n + 1});
  }
}

// A character outside the vocabulary becomes its bytes' tokens, else the unknown token, else nothing. As in
// `tokenizers`, an unknown token takes its place only before the next character of the vocabulary.
void Bpe::symbols_of_text(std::string_view word, Symbols& symbols) const {
  const auto push = [&](int32_t id) {
    const auto n = static_cast<int32_t>(symbols.size());
    symbols.push_back({id, n - 1, n + 1});
  };
  bool unknown = false;  // an unknown token is still to be placed
  const auto flush = [&] {
    if (unknown) push(*unk_);
    unknown = false;
  };
  const bool decorated = !subword_prefix_.empty() || !word_suffix_.empty();
  std::string with_marks;
  thread_local std::vector<int32_t> bytes;
  for (size_t pos = 0; pos < word.size();) {
    std::string_view character = word.substr(pos, utf8_length(word[pos]));
    const bool first = pos == 0;
    pos += character.size();
    if (decorated) {
      with_marks = first ? "" : subword_prefix_;
      with_marks += character;
      if (pos == word.size()) with_marks += word_suffix_;
      character = with_marks;
    }
    bytes.clear();
    if (const auto id = id_of(character)) {
      flush();
      push(*id);
    } else if (byte_fallback_ && append_bytes(character, bytes)) {
      for (const int32_t byte : bytes) push(byte);
    } else if (unk_) {
      if (!fuse_unk_) flush();
      unknown = true;
    }
  }
  flush();
}

// One merge if the pair still stands; `push(left)` notes the pairs it makes.
template <class Push>
void Bpe::apply(Symbols& symbols, int32_t at, int32_t id, Push push) const {
  Symbol& left = symbols[at];
  if (left.id < 0 || left.next < 0) return;
  // The neighbours may have changed since. As in `tokenizers`, a pair that makes the same token still counts,
  // at the rank it was noted with.
  const auto* now = merges_.find(left.id, symbols[left.next].id);
  if (!now || now->id != id) return;
  const int32_t gone = left.next;
  left.id = id;
  left.next = symbols[gone].next;
  symbols[gone].id = -1;
  if (left.next >= 0) symbols[left.next].previous = at;
  if (left.previous >= 0) push(left.previous);
  push(at);
}

// Calls note(rank, left, id) if the symbol and its right neighbour can be merged.
template <class Note>
void Bpe::offer(const Symbols& symbols, int32_t left, Note note) const {
  const int32_t right = symbols[left].next;
  if (right < 0) return;
  if (const auto* m = merges_.find(symbols[left].id, symbols[right].id)) note(m->rank, left, m->id);
}

void Bpe::merge(Symbols& symbols) const {
  const auto size = static_cast<int32_t>(symbols.size());
  if (size > kLongWord) return merge_long(symbols);
  thread_local std::vector<Candidate> heap;
  heap.clear();
  for (int32_t i = 0; i < size; ++i)
    offer(symbols, i, [](int32_t rank, int32_t left, int32_t id) { heap.push_back({rank, left, id}); });
  std::make_heap(heap.begin(), heap.end());
  const auto push = [&](int32_t at) {
    offer(symbols, at, [](int32_t rank, int32_t left, int32_t id) {
      heap.push_back({rank, left, id});
      std::push_heap(heap.begin(), heap.end());
    });
  };
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end());
    const Candidate top = heap.back();
    heap.pop_back();
    apply(symbols, top.left, top.id, push);
  }
}

void Bpe::merge_long(Symbols& symbols) const {
  struct Entry {
    int32_t left, id;
  };
  thread_local RankQueue<Entry> queue;
  queue.start(ranks_);
  const auto push = [&](int32_t at) {
    offer(symbols, at, [](int32_t rank, int32_t left, int32_t id) { queue.push(rank, {left, id}); });
  };
  for (int32_t i = 0; i < static_cast<int32_t>(symbols.size()); ++i) push(i);
  for (Entry top; queue.pop(top);) apply(symbols, top.left, top.id, push);
}

}  // namespace awq
