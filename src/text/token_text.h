// How single tokens are shown to people and in protocols.
#pragma once
#include <cstdint>
#include <string>

#include "tokenizer/tokenizer.h"

namespace awq {

// The token's text, U+FFFD for what is no UTF-8 (a part of a character).
std::string token_text(const Tokenizer& tokenizer, int32_t id);
// The same where different tokens need different names: "bytes:\xe2\x82" for what is no UTF-8, as OpenAI
// writes it.
std::string token_name(const Tokenizer& tokenizer, int32_t id);

}  // namespace awq
