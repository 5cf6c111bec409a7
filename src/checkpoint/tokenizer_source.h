// The tokenizer that belongs to a checkpoint.
#pragma once
#include <memory>

#include "checkpoint/checkpoint.h"
#include "tokenizer/tokenizer.h"

namespace awq {

// From tokenizer.json of the directory, or the vocabulary of the GGUF file. kNotFound when there is none.
std::shared_ptr<const Tokenizer> load_tokenizer(const Checkpoint& checkpoint);

}  // namespace awq
