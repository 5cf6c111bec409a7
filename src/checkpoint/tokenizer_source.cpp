#include "checkpoint/tokenizer_source.h"

#include "checkpoint/gguf_vocab.h"

namespace awq {

std::shared_ptr<const Tokenizer> load_tokenizer(const Checkpoint& checkpoint) {
  const GgufFile* gguf = checkpoint.gguf();
  if (!gguf) return Tokenizer::from_dir(checkpoint.path());
  const auto vocab = gguf_vocab(*gguf);
  if (!vocab)
    fail(Code::kNotFound, "{}: key 'tokenizer.ggml.model' is missing: no vocabulary", gguf->path().string());
  return Tokenizer::from_gguf(*vocab, gguf->path().string());
}

}  // namespace awq
