// The pre-tokenizers that GGUF names instead of spelling them out; the table spells out what the
// tokenizer.json published with those models says. Sources: the models' tokenizer.json files and llama.cpp's
// list of names (src/llama-vocab.cpp).
#include "tokenizer/gguf_pre.h"
#include "base/error.h"

namespace awq {
namespace {

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

constexpr const char* kCl100kPattern =
    R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+)";
constexpr const char* kSeedCoderPattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kExaoneMoePattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+)";
constexpr const char* kMinicpm5Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kJais2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1})";
constexpr const char* kKimiK2Pattern =
    R"([\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kYoutuPattern =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kBloomPattern = R"( ?[^(\s|.,!?…。，、।۔،)]+)";
// Cased letters, as the DeepSeek LLM tokenizer lists them.
constexpr const char* kDeepseekLlmLetters =
    R"(\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\x{1f7d}ᾀ-ᾴᾶ-ᾼ\x{1fbe}ῂ-ῄῆ-ῌῐ-\x{1fd3}ῖ-\x{1fdb}ῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\x{2126}ℨ\x{212a}-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+)";

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

Steps deepseek_llm_steps() {
  return {split(R"([\r\n])"), split(kDeepseekLlmLetters),        split(R"(\s?[!-/:-~！-／：-～‘-‟　-。]+)"),
          split(R"(\s+$)"),   split("[一-龥ࠀ-一가-퟿]+"), digits(true),
          byte_level(false)};
}
Steps bloom_steps() { return {split(kBloomPattern), byte_level(false)}; }
Steps viking_steps() { return {split(kBloomPattern), digits(true), byte_level(false)}; }
Steps bailing_steps() { return {split(kCl100kPattern), byte_level(false)}; }
Steps seed_coder_steps() { return {split(kSeedCoderPattern), byte_level(false)}; }
Steps exaone_moe_steps() { return {split(kExaoneMoePattern), byte_level(false)}; }
Steps minicpm5_steps() { return {split(R"(\p{N}{1,3})"), split(kMinicpm5Pattern), byte_level(false)}; }
Steps jais2_steps() { return {split(kJais2Pattern), byte_level(false)}; }
Steps kimi_k2_steps() { return {split(kKimiK2Pattern), byte_level(false)}; }
Steps youtu_steps() {
  return {split("[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]"
                "+"),
          split(kYoutuPattern), byte_level(false)};
}
Steps tiny_aya_steps() {
  return {split(R"(\d{1,3}(?=(?:\d{3})*\b))"), split(kGpt4oPattern), byte_level(false)};
}
Steps superbpe_steps() { return {split(R"(\p{N}+)"), split(R"((?=(\d{3})+(?!\d)))"), byte_level(false)}; }
Steps laguna_steps() { return {split(R"([^\n]+|[\n]+)"), split(kQwen2Pattern), byte_level(false)}; }
Steps chameleon_steps() {
  return {split("<sentinel:[0-9]+>"),       split("(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z"),
          split(R"([\t\n]|    |  )"),       digits(true),
          split(R"([\p{P}!-/:-@\[-`{-~])"), byte_level(true)};
}

constexpr GgufPre kPreNames[] = {
    {"default", default_steps, false, false, false},
    {"gpt-2", gpt2_steps, false, false, false},
    {"phi-2", gpt2_steps, false, false, false},
    {"jina-es", gpt2_steps, false, false, false},
    {"jina-de", gpt2_steps, false, false, false},
    {"jina-v2-es", gpt2_steps, false, false, false},
    {"jina-v2-de", gpt2_steps, false, false, false},
    {"gigachat", gpt2_steps, false, false, false},
    {"a.x-4.0", gpt2_steps, false, false, false},
    {"mellum", gpt2_steps, false, false, false},
    {"modern-bert", gpt2_steps, false, false, false},
    {"exaone4", gpt2_steps, false, false, false},
    {"jais", gpt2_steps, false, false, false},
    {"trillion", gpt2_steps, false, false, false},
    {"granite-docling", gpt2_steps, false, false, false},
    {"mpt", gpt2_steps, true, false, false},
    {"olmo", gpt2_steps, true, false, false},
    {"smollm", digits_gpt2_steps, false, false, false},
    {"starcoder", digits_gpt2_steps, false, false, false},
    {"refact", digits_gpt2_steps, false, false, false},
    {"codeshell", digits_gpt2_steps, false, false, false},
    {"exaone", digits_gpt2_steps, false, false, false},
    {"minerva-7b", digits_gpt2_steps, false, false, false},
    {"mellum2", digits_gpt2_steps, false, false, false},
    {"command-r", digits_gpt2_steps, true, false, false},
    {"llama-bpe", llama3_steps, false, true, true},
    {"llama3", llama3_steps, false, true, true},
    {"llama-v3", llama3_steps, false, true, true},
    {"falcon3", llama3_steps, false, true, true},
    {"falcon-h1", llama3_steps, false, true, true},
    {"pixtral", llama3_steps, false, true, true},
    {"midm-2.0", llama3_steps, false, true, true},
    {"lfm2", llama3_steps, false, true, true},
    {"jina-v5-nano", llama3_steps, false, true, true},
    {"smaug-bpe", llama3_steps, false, false, false},
    {"dbrx", llama3_steps, false, false, false},
    {"glm4", llama3_steps, false, false, false},
    {"chatglm-bpe", llama3_steps, false, false, false},
    {"minicpm5", minicpm5_steps, false, true, false},
    {"jais-2", jais2_steps, false, false, false},
    {"qwen2", qwen2_steps, true, false, false},
    {"deepseek-r1-qwen", qwen2_steps, true, false, false},
    {"kormo", qwen2_steps, false, false, false},
    {"f2llmv2", qwen2_steps, false, false, false},
    {"megrez", qwen2_steps, false, false, false},
    {"stablelm2", qwen2_steps, false, false, false},
    {"hunyuan", qwen2_steps, false, false, false},
    {"solar-open", qwen2_steps, false, false, false},
    {"grok-2", qwen2_steps, false, false, false},
    {"qwen35", qwen35_steps, true, false, false},
    {"tekken", tekken_steps, false, true, true},
    {"gpt-4o", gpt4o_steps, false, false, false},
    {"llama4", gpt4o_steps, false, false, false},
    {"kanana2", gpt4o_steps, false, false, false},
    {"talkie", gpt4o_steps, false, false, false},
    {"minimax-m2", gpt4o_steps, false, false, false},
    {"tiny_aya", tiny_aya_steps, true, false, false},
    {"cohere2moe", tiny_aya_steps, true, false, false},
    {"youtu", youtu_steps, false, true, false},
    {"kimi-k2", kimi_k2_steps, false, false, false},
    {"deepseek-llm", deepseek_llm_steps, false, false, false},
    {"deepseek-coder", deepseek_coder_steps, false, false, false},
    {"deepseek-v3", deepseek3_steps, false, false, false},
    {"hunyuan-dense", deepseek3_steps, false, false, false},
    {"joyai-llm", deepseek3_steps, false, false, false},
    {"falcon", falcon_steps, false, false, false},
    {"bloom", bloom_steps, false, false, false},
    {"poro-chat", bloom_steps, false, false, false},
    {"gpt3-finnish", bloom_steps, false, false, false},
    {"viking", viking_steps, false, false, false},
    {"superbpe", superbpe_steps, false, false, false},
    {"bailingmoe", bailing_steps, false, false, false},
    {"bailingmoe2", bailing_steps, false, false, false},
    {"llada-moe", bailing_steps, false, false, false},
    {"seed-coder", seed_coder_steps, false, false, false},
    {"exaone-moe", exaone_moe_steps, false, false, false},
    {"laguna", laguna_steps, false, false, false},
    {"chameleon", chameleon_steps, false, false, true},
};

}  // namespace

const GgufPre& find_gguf_pre(const std::string& name, const std::string& where) {
  for (const GgufPre& p : kPreNames)
    if (name == p.name) return p;
  std::string known;
  for (const GgufPre& p : kPreNames) known += (known.empty() ? "" : ", ") + std::string(p.name);
  fail(Code::kUnsupported, "{}: tokenizer.ggml.pre '{}' is not supported (supported: {})", where, name,
       known);
}

std::vector<std::string> gguf_pre_names() {
  std::vector<std::string> names;
  for (const GgufPre& p : kPreNames) names.emplace_back(p.name);
  return names;
}

}  // namespace awq
