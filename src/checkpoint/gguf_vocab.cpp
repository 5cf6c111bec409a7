#include "checkpoint/gguf_vocab.h"

namespace awq {
namespace {

std::optional<int32_t> token_id(const GgufFile& gguf, const std::string& key, size_t tokens) {
  const auto id = gguf.integer(key);
  if (!id) return std::nullopt;
  if (*id < 0 || *id >= static_cast<int64_t>(tokens))
    fail(Code::kBadFile, "{}: key '{}': expected a token id below {}, got {}", gguf.path().string(), key,
         tokens, *id);
  return static_cast<int32_t>(*id);
}

void check_length(const GgufFile& gguf, const char* key, size_t length, size_t tokens) {
  if (length != 0 && length != tokens)
    fail(Code::kBadFile, "{}: key '{}': expected {} entries, one per token, got {}", gguf.path().string(),
         key, tokens, length);
}

}  // namespace

std::optional<GgufVocab> gguf_vocab(const GgufFile& gguf) {
  const auto model = gguf.text("tokenizer.ggml.model");
  if (!model) return std::nullopt;
  GgufVocab v;
  v.model = *model;
  v.pre = gguf.text("tokenizer.ggml.pre").value_or("");
  v.tokens = gguf.texts("tokenizer.ggml.tokens");
  for (const int64_t type : gguf.integers("tokenizer.ggml.token_type"))
    v.token_type.push_back(static_cast<int32_t>(type));
  v.scores = gguf.reals("tokenizer.ggml.scores");
  v.merges = gguf.texts("tokenizer.ggml.merges");
  check_length(gguf, "tokenizer.ggml.token_type", v.token_type.size(), v.tokens.size());
  check_length(gguf, "tokenizer.ggml.scores", v.scores.size(), v.tokens.size());
  v.bos = token_id(gguf, "tokenizer.ggml.bos_token_id", v.tokens.size());
  v.eos = token_id(gguf, "tokenizer.ggml.eos_token_id", v.tokens.size());
  v.eot = token_id(gguf, "tokenizer.ggml.eot_token_id", v.tokens.size());
  v.unk = token_id(gguf, "tokenizer.ggml.unknown_token_id", v.tokens.size());
  v.pad = token_id(gguf, "tokenizer.ggml.padding_token_id", v.tokens.size());
  v.sep = token_id(gguf, "tokenizer.ggml.seperator_token_id", v.tokens.size());  // spelled so
  for (const int64_t byte : gguf.integers("tokenizer.ggml.precompiled_charsmap"))
    v.charsmap += static_cast<char>(byte);
  v.remove_extra_whitespaces = gguf.boolean("tokenizer.ggml.remove_extra_whitespaces");
  v.add_bos = gguf.boolean("tokenizer.ggml.add_bos_token");
  v.add_eos = gguf.boolean("tokenizer.ggml.add_eos_token");
  v.add_space_prefix = gguf.boolean("tokenizer.ggml.add_space_prefix");
  v.chat_template = gguf.text("tokenizer.chat_template").value_or("");
  for (const std::string& name : gguf.texts("tokenizer.chat_templates"))
    if (const auto text = gguf.text("tokenizer.chat_template." + name))
      v.named_templates.emplace_back(name, *text);
  return v;
}

}  // namespace awq
