// Text <-> token ids, exactly as the model's own tokenizer.json (Hugging Face `tokenizers`), SentencePiece
// model or GGUF vocabulary defines them. Thread-safe after construction.
#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace awq {

// The vocabulary part of a GGUF file (docs/formats.md, section h), handed over by checkpoint/ so that this
// room needs no file format.
struct GgufVocab {
  std::string model;  // tokenizer.ggml.model: "gpt2", "llama", "t5", "bert", ...
  std::string pre;    // tokenizer.ggml.pre
  std::vector<std::string> tokens;
  std::vector<int32_t> token_type;  // 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte
  std::vector<float> scores;
  std::vector<std::string> merges;
  std::optional<int32_t> bos, eos, eot, unk, pad, sep;
  std::optional<bool> add_bos, add_eos, add_space_prefix, remove_extra_whitespaces;
  std::string charsmap;  // tokenizer.ggml.precompiled_charsmap
  std::string chat_template;
  std::vector<std::pair<std::string, std::string>>
      named_templates;  // name -> template, beside the default one
};

class Tokenizer {
 public:
  // Contents of a tokenizer.json; `where` names the file in errors (kBadFile, kUnsupported).
  static std::shared_ptr<const Tokenizer> from_json(std::string_view json, const std::string& where);
  static std::shared_ptr<const Tokenizer> from_gguf(const GgufVocab& vocab, const std::string& where);
  // Contents of a SentencePiece .model; ids and text as the SentencePiece library gives them, and its control
  // pieces
  // ("<s>") recognised in the text (kBadFile, kUnsupported).
  static std::shared_ptr<const Tokenizer> from_sentencepiece(std::string_view model,
                                                             const std::string& where);
  // Directory holding tokenizer.json or, with what the JSON files beside it say, tokenizer.model. kNotFound
  // names what was looked for.
  static std::shared_ptr<const Tokenizer> from_dir(const std::filesystem::path& dir);
  virtual ~Tokenizer() = default;

  // Special and added tokens in the text are recognised (as `tokenizers` does). add_special_tokens applies
  // the post-processor (BOS, ...).
  virtual std::vector<int32_t> encode(std::string_view text, bool add_special_tokens) const = 0;
  // Joined and decoded; invalid UTF-8 becomes U+FFFD.
  virtual std::string decode(std::span<const int32_t> ids, bool skip_special_tokens) const = 0;
  // The raw bytes of one token, possibly a part of a UTF-8 sequence; "" for ids outside the vocabulary. `at_start`: as
  // the first token of a text, where decode() drops the space that only marks the start of a word.
  virtual std::string token_bytes(int32_t id, bool at_start = false) const = 0;
  virtual bool is_special(int32_t id) const = 0;
  virtual std::optional<int32_t> id_of(std::string_view token) const = 0;
  virtual int32_t vocab_size() const = 0;  // ids are 0 .. vocab_size-1, added tokens included
};

// The files transformers' AutoTokenizer needs, made from a GGUF vocabulary: tokenizer.json,
// tokenizer_config.json and, when there is one, chat_template.jinja; several templates stand in
// tokenizer_config.json by name. Encoding with the result equals Tokenizer::from_gguf.
struct TokenizerFiles {
  std::string tokenizer_json, tokenizer_config_json, chat_template_jinja;
};
TokenizerFiles tokenizer_files_from_gguf(const GgufVocab& vocab, int64_t context_length,
                                         const std::string& where);

}  // namespace awq
