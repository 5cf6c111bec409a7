// The vocabulary in a GGUF file's metadata (docs/formats.md, section h).
#pragma once
#include <optional>

#include "formats/gguf.h"
#include "tokenizer/tokenizer.h"

namespace awq {

// Empty when the file carries none (tokenizer.ggml.model is missing). kBadFile names the key that is wrong.
std::optional<GgufVocab> gguf_vocab(const GgufFile& gguf);

}  // namespace awq
