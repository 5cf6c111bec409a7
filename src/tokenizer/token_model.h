// From a word to its token ids: what tokenizer.json calls a model.
#pragma once
#include <array>
#include <cstdint>
#include <functional>
#include <memory>
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

class TokenModel {
 public:
  // kBadFile where vocabulary, merges and scores do not fit together.
  static std::unique_ptr<const TokenModel> make(const ModelSpec& spec, const std::string& where);
  virtual ~TokenModel() = default;

  // Appends the ids of one word, which is not empty. `raw_bytes`: bytes that the byte-level alphabet stands
  // for; otherwise valid UTF-8. Thread-safe. kUnsupported when text cannot be expressed at all (no unknown
  // token).
  virtual void encode_word(std::string_view word, bool raw_bytes, std::vector<int32_t>& ids) const = 0;

  std::optional<int32_t> id_of(std::string_view token) const {
    const auto it = ids_.find(token);
    return it == ids_.end() ? std::nullopt : std::optional<int32_t>(it->second);
  }

 protected:
  TokenModel(const ModelSpec& spec, const std::string& where);

  // Ids of "<0x00>" ... "<0xFF>" for each byte of the text appended, if the vocabulary has them all.
  bool append_bytes(std::string_view text, std::vector<int32_t>& ids) const;
  // The id, or what stands for text without one: its bytes, else the unknown token, once for neighbours.
  void append_id(std::string_view text, std::optional<int32_t> id, bool& after_unknown,
                 std::vector<int32_t>& ids) const;

  TokenIds ids_;
  std::array<int32_t, 256> byte_fallback_ids_;  // -1: not in the vocabulary
  std::optional<int32_t> unk_;
  bool byte_fallback_;

 private:
  std::string where_;
};

}  // namespace awq
