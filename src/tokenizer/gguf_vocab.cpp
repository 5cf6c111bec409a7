// GGUF vocabulary -> TokenizerSpec. GGUF names the pre-tokenizer instead of spelling it out; the table below
// spells out what the tokenizer.json published with those models says. Sources: the models' tokenizer.json
// files and llama.cpp's list of names (src/llama-vocab.cpp).
#include <algorithm>
#include <array>
#include <unordered_map>

#include "base/error.h"
#include "tokenizer/spec.h"
#include "tokenizer/unicode.h"

namespace awq {
namespace {

// GGUF specification, tokenizer.ggml.token_type.
enum TokenType : int32_t { kUnknown = 2, kControl = 3, kUserDefined = 4 };

constexpr const char* kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kQwen35Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kTekkenPattern =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kGpt4oPattern =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kDeepseek3Pattern =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

PreTokenizerStep byte_level(bool use_regex) {
  PreTokenizerStep s{};
  s.kind = PreTokenizerKind::kByteLevel;
  s.use_regex = use_regex;
  return s;
}
PreTokenizerStep digits(bool individual) {
  PreTokenizerStep s{};
  s.kind = PreTokenizerKind::kDigits;
  s.individual_digits = individual;
  return s;
}
PreTokenizerStep split(const char* regex) {
  PreTokenizerStep s{};
  s.kind = PreTokenizerKind::kSplit;
  s.pattern = {regex, true};
  return s;
}
PreTokenizerStep punctuation_runs() {
  PreTokenizerStep s{};
  s.kind = PreTokenizerKind::kPunctuation;
  s.behavior = SplitBehavior::kContiguous;
  return s;
}

using Steps = std::vector<PreTokenizerStep>;

Steps gpt2_steps() { return {byte_level(true)}; }
Steps digits_gpt2_steps() { return {digits(true), byte_level(true)}; }
Steps llama3_steps() { return {split(kLlama3Pattern), byte_level(false)}; }
Steps qwen2_steps() { return {split(kQwen2Pattern), byte_level(false)}; }
Steps qwen35_steps() { return {split(kQwen35Pattern), byte_level(false)}; }
Steps tekken_steps() { return {split(kTekkenPattern), byte_level(false)}; }
Steps gpt4o_steps() { return {split(kGpt4oPattern), byte_level(false)}; }
Steps falcon_steps() {
  return {punctuation_runs(), byte_level(true), digits(false), split("[0-9][0-9][0-9]")};
}
Steps deepseek_coder_steps() {
  return {split(R"([\r\n])"), split(R"(\s?\p{L}+)"), split(R"(\s?\p{P}+)"), split("[一-龥ࠀ-一가-퟿]+"),
          digits(true),       byte_level(false)};
}
Steps deepseek3_steps() {
  return {split(R"(\p{N}{1,3})"), split("[一-龥぀-ゟ゠-ヿ]+"), split(kDeepseek3Pattern),
          byte_level(false)};
}
// What llama.cpp does for files that name no pre-tokenizer of their own.
Steps default_steps() {
  return {split(R"([\p{P}\$\+<=>\^~\|]+)"),
          split(R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S))"),
          split(R"(\p{N}+)"), split("[0-9][0-9][0-9]"), byte_level(false)};
}

struct PreName {
  const char* name;
  Steps (*steps)();
  bool nfc;            // the published tokenizer normalizes
  bool ignore_merges;  // a word that is a token is taken whole
  bool add_bos;        // where the file does not say
};
constexpr std::array kPreNames{
    PreName{"default", default_steps, false, false, false},
    PreName{"gpt-2", gpt2_steps, false, false, false},
    PreName{"phi-2", gpt2_steps, false, false, false},
    PreName{"mpt", gpt2_steps, true, false, false},
    PreName{"olmo", gpt2_steps, true, false, false},
    PreName{"smollm", digits_gpt2_steps, false, false, false},
    PreName{"starcoder", digits_gpt2_steps, false, false, false},
    PreName{"refact", digits_gpt2_steps, false, false, false},
    PreName{"command-r", digits_gpt2_steps, true, false, false},
    PreName{"llama-bpe", llama3_steps, false, true, true},
    PreName{"llama3", llama3_steps, false, true, true},
    PreName{"llama-v3", llama3_steps, false, true, true},
    PreName{"smaug-bpe", llama3_steps, false, false, false},
    PreName{"dbrx", llama3_steps, false, false, false},
    PreName{"qwen2", qwen2_steps, true, false, false},
    PreName{"deepseek-r1-qwen", qwen2_steps, true, false, false},
    PreName{"qwen35", qwen35_steps, true, false, false},
    PreName{"tekken", tekken_steps, false, true, true},
    PreName{"gpt-4o", gpt4o_steps, false, false, false},
    PreName{"llama4", gpt4o_steps, false, false, false},
    PreName{"deepseek-coder", deepseek_coder_steps, false, false, false},
    PreName{"deepseek-v3", deepseek3_steps, false, false, false},
    PreName{"falcon", falcon_steps, false, false, false},
};

const PreName& find_pre(const std::string& name, const std::string& where) {
  for (const PreName& p : kPreNames)
    if (name == p.name) return p;
  std::string known;
  for (const PreName& p : kPreNames) known += (known.empty() ? "" : ", ") + std::string(p.name);
  fail(Code::kUnsupported, "{}: tokenizer.ggml.pre '{}' is not supported (supported: {})", where, name,
       known);
}

// A space separates the two tokens; the byte-level alphabet has none, so the first one after a character is
// it.
std::pair<std::string, std::string> split_merge(const std::string& merge, size_t rank,
                                                const std::string& where) {
  if (!is_valid_utf8(merge)) fail(Code::kBadFile, "{}: tokenizer.ggml.merges[{}]: expected UTF-8", where, rank);
  const size_t space = merge.find(' ', 1);
  if (space == std::string::npos || space + 1 == merge.size())
    fail(Code::kBadFile, "{}: tokenizer.ggml.merges[{}]: expected two tokens, got '{}'", where, rank, merge);
  return {merge.substr(0, space), merge.substr(space + 1)};
}

int32_t checked_id(std::optional<int32_t> id, const char* key, const GgufVocab& vocab,
                   const std::string& where) {
  if (!id || *id < 0 || static_cast<size_t>(*id) >= vocab.tokens.size())
    fail(Code::kBadFile, "{}: tokenizer.ggml.{}: expected an id below {}, got {}", where, key,
         vocab.tokens.size(), id ? std::to_string(*id) : "none");
  return *id;
}

void check_vocab(const GgufVocab& vocab, const std::string& where) {
  if (vocab.model != "gpt2")
    fail(Code::kUnsupported,
         "{}: tokenizer.ggml.model '{}' is not supported (supported: gpt2, byte-level BPE)", where,
         vocab.model);
  if (vocab.tokens.empty() || vocab.tokens.size() > INT32_MAX)
    fail(Code::kBadFile, "{}: tokenizer.ggml.tokens: expected tokens, got {}", where, vocab.tokens.size());
  if (!vocab.token_type.empty() && vocab.token_type.size() != vocab.tokens.size())
    fail(Code::kBadFile, "{}: tokenizer.ggml.token_type: expected {} entries, one per token, got {}", where,
         vocab.tokens.size(), vocab.token_type.size());
  std::unordered_map<std::string_view, size_t> seen;
  seen.reserve(vocab.tokens.size());
  for (size_t id = 0; id < vocab.tokens.size(); ++id) {
    const std::string& token = vocab.tokens[id];
    if (!is_valid_utf8(token))
      fail(Code::kBadFile, "{}: tokenizer.ggml.tokens[{}]: expected UTF-8", where, id);
    const auto [it, fresh] = seen.try_emplace(token, id);
    if (!fresh)
      fail(Code::kBadFile,
           "{}: tokenizer.ggml.tokens[{}]: expected a token of its own, got '{}' like token {}", where, id,
           token, it->second);
  }
}

}  // namespace

TokenizerSpec spec_from_gguf(const GgufVocab& vocab, const std::string& where) {
  check_vocab(vocab, where);
  const PreName& pre = find_pre(vocab.pre, where);
  TokenizerSpec spec;
  spec.pre_tokenizer = pre.steps();
  if (pre.nfc) spec.normalizer.push_back({NormalizerKind::kNfc, {}, {}, false, false});
  spec.decoder.push_back({});
  spec.decoder.back().kind = DecoderKind::kByteLevel;
  spec.model.ignore_merges = pre.ignore_merges;
  for (size_t i = 0; i < vocab.tokens.size(); ++i) {
    const auto id = static_cast<int32_t>(i);
    spec.model.vocab.emplace_back(vocab.tokens[i], id);
    const int32_t type = vocab.token_type.empty() ? 1 : vocab.token_type[i];
    if (type != kUnknown && type != kControl && type != kUserDefined) continue;
    AddedToken t;
    t.id = id;
    t.content = vocab.tokens[i];
    t.special = type != kUserDefined;
    spec.added_tokens.push_back(std::move(t));
  }
  for (size_t rank = 0; rank < vocab.merges.size(); ++rank)
    spec.model.merges.push_back(split_merge(vocab.merges[rank], rank, where));
  PostStep around;
  if (vocab.add_bos.value_or(pre.add_bos && vocab.bos.has_value()))
    around.before.push_back(checked_id(vocab.bos, "bos_token_id", vocab, where));
  if (vocab.add_eos.value_or(false))
    around.after.push_back(checked_id(vocab.eos, "eos_token_id", vocab, where));
  if (!around.before.empty() || !around.after.empty()) spec.post_processor.push_back(std::move(around));
  return spec;
}

}  // namespace awq
