#include "text/detokenizer.h"

#include <utility>

#include "tokenizer/unicode.h"

namespace awq {

Detokenizer::Detokenizer(std::shared_ptr<const Tokenizer> tokenizer, bool skip_special_tokens, bool at_start)
    : tokenizer_(std::move(tokenizer)),
      skip_special_(skip_special_tokens),
      starts_texts_(at_start),
      at_start_(at_start) {}

std::string Detokenizer::push(int32_t id) {
  if (skip_special_ && tokenizer_->is_special(id)) return {};
  std::string bytes = std::move(held_) + tokenizer_->token_bytes(id, std::exchange(at_start_, false));
  const size_t certain = bytes.size() - incomplete_utf8_suffix(bytes);
  held_ = bytes.substr(certain);
  bytes.resize(certain);
  return is_valid_utf8(bytes) ? bytes : replace_invalid_utf8(bytes);
}

std::string Detokenizer::flush() {
  at_start_ = starts_texts_;
  return replace_invalid_utf8(std::exchange(held_, {}));
}

std::string detokenized(const std::shared_ptr<const Tokenizer>& tokenizer, std::span<const int32_t> ids) {
  Detokenizer detokenizer(tokenizer);
  std::string out;
  for (const int32_t id : ids) out += detokenizer.push(id);
  return out + detokenizer.flush();
}

}  // namespace awq
