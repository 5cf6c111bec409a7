// The named ways to turn a text into windows whose perplexity is measured. Figures are comparable only under
// the same protocol, so each is fixed here to the letter.
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/text_source.h"

namespace awq {

// kGptq2048: the evaluation of the GPTQ and AWQ papers, whose rows are WikiText-2 as `datasets` hands it out.
// The text is split at newlines, white-space-only lines become "" and the others keep their newline, and all
// are joined by "\n\n". Windows of 2,048, no BOS. Records of JSON lines are taken as they are.
//
// kRaw2048: the same windows on the text as it is.
//
// kLlamacpp512: llama.cpp's perplexity tool. One final newline is dropped, BOS comes in front where the
// tokenizer adds one; windows of 512 whose first token is replaced by BOS; only the second half of each is
// scored. (llama.cpp reads special tokens spelt out in the text as plain characters; here they are
// recognised, as elsewhere.)
enum class Protocol : uint8_t { kGptq2048, kRaw2048, kLlamacpp512 };

std::span<const char* const> protocol_names();  // in the order of the enum
const char* protocol_name(Protocol protocol);
Protocol protocol_named(std::string_view name);  // kBadArgument names the known ones

// Windows follow each other without overlap; an incomplete one at the end is dropped.
struct WindowSpec {
  int64_t length = 2048;  // tokens, at least 2
  int64_t unscored = 0;  // tokens at the start whose successor is not a target: length - 1 - unscored targets
  std::optional<int32_t> first_token = std::nullopt;  // replaces the first token of each window
};

std::vector<int32_t> protocol_tokens(const TextSet& text, const Tokenizer& tokenizer, Protocol protocol);
WindowSpec protocol_windows(Protocol protocol, const Tokenizer& tokenizer);

}  // namespace awq
