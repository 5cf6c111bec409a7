#include "tokenizer/charsmap.h"

#include <bit>
#include <cstring>

#include "base/error.h"
#include "tokenizer/unicode.h"

namespace awq {
namespace {

static_assert(std::endian::native == std::endian::little);

// A unit of darts-clone's double array: bits 0-7 the label of the edge that leads here, bit 8 a value
// follows, bits 9-31 where the children are; or, with bit 31, a value.
bool has_value(uint32_t unit) { return (unit >> 8 & 1) != 0; }
uint32_t label(uint32_t unit) { return unit & (0x80000000u | 0xff); }
uint32_t offset(uint32_t unit) { return unit >> 10 << ((unit & 0x200) >> 6); }
uint32_t value(uint32_t unit) { return unit & 0x7fffffff; }

}  // namespace

Charsmap::Charsmap(std::string_view bytes, const std::string& where) {
  if (bytes.empty()) return;
  uint32_t trie_bytes = 0;
  if (bytes.size() > sizeof trie_bytes) std::memcpy(&trie_bytes, bytes.data(), sizeof trie_bytes);
  if (trie_bytes < sizeof(uint32_t) || trie_bytes % sizeof(uint32_t) != 0 ||
      trie_bytes >= bytes.size() - sizeof trie_bytes)
    fail(Code::kBadFile, "{}: precompiled_charsmap: expected a trie within {} bytes, got one of {} bytes",
         where, bytes.size(), trie_bytes);
  units_.resize(trie_bytes / sizeof(uint32_t));
  std::memcpy(units_.data(), bytes.data() + sizeof trie_bytes, trie_bytes);
  replacements_ = bytes.substr(sizeof trie_bytes + trie_bytes);
  if (!is_valid_utf8(replacements_))
    fail(Code::kBadFile, "{}: precompiled_charsmap: expected replacements in UTF-8, got other bytes", where);
}

// Every entry that is a prefix of the text, until `found` says false. A file can lead anywhere: a place
// outside ends the walk.
template <class Found>
void Charsmap::walk(std::string_view text, Found found) const {
  if (units_.empty()) return;
  size_t at = offset(units_[0]);
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    at ^= byte;
    if (at >= units_.size() || label(units_[at]) != byte) return;
    const uint32_t unit = units_[at];
    at ^= offset(unit);
    if (!has_value(unit)) continue;
    if (at >= units_.size() || !found(Match{i + 1, replacement(value(units_[at]))})) return;
  }
}

std::string_view Charsmap::replacement(uint32_t from) const {
  const std::string_view all = replacements_;
  if (from >= all.size() || valid_utf8_at(all, from) == 0) return {};  // outside, or inside a character
  return all.substr(from, all.find('\0', from) - from);
}

std::optional<Charsmap::Match> Charsmap::longest(std::string_view text) const {
  std::optional<Match> best;
  walk(text, [&](const Match& m) {
    best = m;
    return true;
  });
  return best;
}

std::optional<Charsmap::Match> Charsmap::shortest(std::string_view text) const {
  std::optional<Match> best;
  walk(text.substr(0, text.find('\0')), [&](const Match& m) {
    best = m;
    return false;
  });
  return best;
}

}  // namespace awq
