// The compiled normalization rules of SentencePiece ("precompiled_charsmap"): text pieces and what replaces
// them. Format (SentencePiece src/normalizer.cc; darts-clone's double array): u32 bytes of the trie, the trie
// as u32 units, then the replacements, each ended by a zero byte. Little-endian.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace awq {

class Charsmap {
 public:
  Charsmap() = default;  // no rules
  // kBadFile when the sizes do not fit together.
  Charsmap(std::string_view bytes, const std::string& where);

  struct Match {
    size_t length;  // bytes of the text
    std::string_view replacement;
  };
  bool empty() const { return units_.empty(); }
  // The longest rule that matches where `text` begins.
  std::optional<Match> longest(std::string_view text) const;
  // The shortest one, which `tokenizers` takes; a zero byte ends the text.
  std::optional<Match> shortest(std::string_view text) const;

 private:
  template <class Found>
  void walk(std::string_view text, Found found) const;
  std::string_view replacement(uint32_t offset) const;

  std::vector<uint32_t> units_;
  std::string replacements_;
};

}  // namespace awq
