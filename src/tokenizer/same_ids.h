#pragma once
#include "tokenizer/tokenizer.h"

namespace awq {

// Whether both give a text the same ids, by a probe of what the tokenizers of different models cut differently. A model can
// guess for another only then.
bool same_ids(const Tokenizer& a, const Tokenizer& b);

}  // namespace awq
