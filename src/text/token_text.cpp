#include "text/token_text.h"

#include <fmt/format.h>

#include "tokenizer/unicode.h"

namespace awq {

std::string token_text(const Tokenizer& tokenizer, int32_t id) {
  std::string bytes = tokenizer.token_bytes(id);
  return is_valid_utf8(bytes) ? bytes : replace_invalid_utf8(bytes);
}

std::string token_name(const Tokenizer& tokenizer, int32_t id) {
  const std::string bytes = tokenizer.token_bytes(id);
  if (is_valid_utf8(bytes)) return bytes;
  std::string out = "bytes:";
  for (const char c : bytes) out += fmt::format("\\x{:02x}", static_cast<uint8_t>(c));
  return out;
}

}  // namespace awq
