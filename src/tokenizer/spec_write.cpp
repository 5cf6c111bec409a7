// TokenizerSpec -> tokenizer.json, and the other files transformers' AutoTokenizer wants beside it.
#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "tokenizer/spec.h"

namespace awq {
namespace {

using Json = nlohmann::ordered_json;

std::string quoted(const std::string& text) { return Json(text).dump(); }

std::string base64(std::string_view bytes) {
  constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    const auto byte = [&](size_t k) {
      return k < bytes.size() ? static_cast<uint32_t>(static_cast<unsigned char>(bytes[k])) : 0;
    };
    const uint32_t bits = byte(i) << 16 | byte(i + 1) << 8 | byte(i + 2);
    for (size_t k = 0; k < 4; ++k) out += i + k > bytes.size() ? '=' : kDigits[bits >> (18 - 6 * k) & 63];
  }
  return out;
}

Json pattern_json(const SplitPattern& p) { return {{p.is_regex ? "Regex" : "String", p.text}}; }

Json normalizer_json(const NormalizerStep& s) {
  switch (s.kind) {
    case NormalizerKind::kNfc:
      return {{"type", "NFC"}};
    case NormalizerKind::kPrepend:
      return {{"type", "Prepend"}, {"prepend", s.content}};
    case NormalizerKind::kReplace:
      return {{"type", "Replace"}, {"pattern", pattern_json(s.pattern)}, {"content", s.content}};
    case NormalizerKind::kStrip:
      return {{"type", "Strip"}, {"strip_left", s.strip_left}, {"strip_right", s.strip_right}};
    case NormalizerKind::kPrecompiled:
      return {{"type", "Precompiled"}, {"precompiled_charsmap", base64(s.charsmap)}};
    case NormalizerKind::kBert:
      return {{"type", "BertNormalizer"},
              {"clean_text", s.clean_text},
              {"handle_chinese_chars", s.chinese_chars},
              {"strip_accents", s.strip_accents},
              {"lowercase", s.lowercase}};
    default:
      fail(Code::kInternal, "write_tokenizer_json: expected a normalizer that spec_from_gguf makes");
  }
}

const char* behavior_name(SplitBehavior behavior) {
  switch (behavior) {
    case SplitBehavior::kIsolated:
      return "Isolated";
    case SplitBehavior::kRemoved:
      return "Removed";
    case SplitBehavior::kMergedWithPrevious:
      return "MergedWithPrevious";
    case SplitBehavior::kMergedWithNext:
      return "MergedWithNext";
    case SplitBehavior::kContiguous:
      return "Contiguous";
  }
  fail(Code::kInternal, "write_tokenizer_json: unknown split behavior");
}

const char* scheme_name(PrependScheme scheme) {
  return scheme == PrependScheme::kAlways ? "always" : scheme == PrependScheme::kFirst ? "first" : "never";
}

Json pre_tokenizer_json(const PreTokenizerStep& s) {
  switch (s.kind) {
    case PreTokenizerKind::kByteLevel:
      return {{"type", "ByteLevel"},
              {"add_prefix_space", s.add_prefix_space},
              {"trim_offsets", s.trim_offsets},
              {"use_regex", s.use_regex}};
    case PreTokenizerKind::kSplit:
      return {{"type", "Split"},
              {"pattern", pattern_json(s.pattern)},
              {"behavior", behavior_name(s.behavior)},
              {"invert", s.invert}};
    case PreTokenizerKind::kDigits:
      return {{"type", "Digits"}, {"individual_digits", s.individual_digits}};
    case PreTokenizerKind::kPunctuation:
      return {{"type", "Punctuation"}, {"behavior", behavior_name(s.behavior)}};
    case PreTokenizerKind::kWhitespace:
      return {{"type", "Whitespace"}};
    case PreTokenizerKind::kWhitespaceSplit:
      return {{"type", "WhitespaceSplit"}};
    case PreTokenizerKind::kMetaspace:
      return {{"type", "Metaspace"},
              {"replacement", s.replacement},
              {"prepend_scheme", scheme_name(s.prepend_scheme)},
              {"split", s.split}};
    case PreTokenizerKind::kBert:
      return {{"type", "BertPreTokenizer"}};
    default:
      fail(Code::kInternal, "write_tokenizer_json: expected a pre-tokenizer that spec_from_gguf makes");
  }
}

Json decoder_json(const DecoderStep& s) {
  switch (s.kind) {
    case DecoderKind::kByteLevel:
      return {
          {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
    case DecoderKind::kReplace:
      return {{"type", "Replace"}, {"pattern", pattern_json(s.pattern)}, {"content", s.content}};
    case DecoderKind::kByteFallback:
      return {{"type", "ByteFallback"}};
    case DecoderKind::kFuse:
      return {{"type", "Fuse"}};
    case DecoderKind::kStrip:
      return {{"type", "Strip"}, {"content", s.content}, {"start", s.start}, {"stop", s.stop}};
    case DecoderKind::kMetaspace:
      return {{"type", "Metaspace"},
              {"replacement", s.content},
              {"prepend_scheme", scheme_name(s.prepend_scheme)},
              {"split", true}};
    case DecoderKind::kWordPiece:
      return {{"type", "WordPiece"}, {"prefix", s.content}, {"cleanup", s.cleanup}};
    default:
      fail(Code::kInternal, "write_tokenizer_json: expected a decoder that spec_from_gguf makes");
  }
}

// One step as it is, several as a Sequence, none as null.
Json sequence(std::vector<Json> steps, const char* items) {
  if (steps.empty()) return nullptr;
  if (steps.size() == 1) return steps[0];
  return {{"type", "Sequence"}, {items, steps}};
}

Json post_processor_json(const std::vector<PostStep>& steps, const std::map<int32_t, std::string>& names) {
  std::vector<Json> out;
  for (const PostStep& step : steps) {
    Json special = Json::object();
    const auto token = [&](int32_t id, int type_id) {
      const std::string& name = names.at(id);
      special[name] = {{"id", name}, {"ids", {id}}, {"tokens", {name}}};
      return Json{{"SpecialToken", {{"id", name}, {"type_id", type_id}}}};
    };
    const auto around = [&](const char* sequence_id, int type_id) {
      std::vector<Json> items;
      for (const int32_t id : step.before) items.push_back(token(id, type_id));
      items.push_back({{"Sequence", {{"id", sequence_id}, {"type_id", type_id}}}});
      for (const int32_t id : step.after) items.push_back(token(id, type_id));
      return items;
    };
    const std::vector<Json> single = around("A", 0);
    std::vector<Json> pair = single;
    for (Json& item : around("B", 1)) pair.push_back(std::move(item));
    out.push_back(
        {{"type", "TemplateProcessing"}, {"single", single}, {"pair", pair}, {"special_tokens", special}});
  }
  return sequence(std::move(out), "processors");
}

Json added_token_json(const AddedToken& t) {
  return {{"content", t.content}, {"single_word", t.single_word}, {"lstrip", t.lstrip},
          {"rstrip", t.rstrip},   {"normalized", t.normalized},   {"special", t.special}};
}

// By hand: vocabularies are large, and ordered_json would search the whole object at every insertion.
std::string vocab_json(const ModelSpec& m) {
  std::string out;
  const char* comma = "";
  for (const auto& [token, id] : m.vocab) {
    out += fmt::format("{}\n{}:{}", comma, quoted(token), id);
    comma = ",";
  }
  return out;
}

std::string bpe_json(const ModelSpec& m) {
  std::string out = R"({"type":"BPE","dropout":null,"unk_token":)";
  out += m.unk_token ? quoted(*m.unk_token) : "null";
  out += R"(,"continuing_subword_prefix":null,"end_of_word_suffix":null)";
  out += fmt::format(R"(,"fuse_unk":{},"byte_fallback":{},"ignore_merges":{},"vocab":{{)", m.fuse_unk,
                     m.byte_fallback, m.ignore_merges);
  out += vocab_json(m) + "},\n\"merges\":[";
  // "a b" rather than ["a","b"]: readers before tokenizers 0.20 know only this form. Tokens with spaces have
  // no other.
  const bool spaces = std::any_of(m.merges.begin(), m.merges.end(), [](const auto& pair) {
    return (pair.first + pair.second).find(' ') != std::string::npos;
  });
  const char* comma = "";
  for (const auto& [left, right] : m.merges) {
    out += spaces ? fmt::format("{}\n[{},{}]", comma, quoted(left), quoted(right))
                  : fmt::format("{}\n{}", comma, quoted(left + " " + right));
    comma = ",";
  }
  return out + "]}";
}

std::string unigram_json(const ModelSpec& m) {
  std::string out = fmt::format(R"({{"type":"Unigram","unk_id":{},"byte_fallback":{},"vocab":[)",
                                m.unk_id ? std::to_string(*m.unk_id) : "null", m.byte_fallback);
  for (size_t i = 0; i < m.vocab.size(); ++i)
    out += fmt::format("{}\n[{},{}]", i > 0 ? "," : "", quoted(m.vocab[i].first), m.scores[i]);
  return out + "]}";
}

std::string word_piece_json(const ModelSpec& m) {
  return fmt::format(
      R"({{"type":"WordPiece","unk_token":{},"continuing_subword_prefix":{},"max_input_chars_per_word":{},"vocab":{{{}}}}})",
      quoted(m.unk_token.value_or("[UNK]")), quoted(m.subword_prefix), m.longest_word, vocab_json(m));
}

std::string model_json(const ModelSpec& m) {
  switch (m.kind) {
    case ModelKind::kBpe:
      return bpe_json(m);
    case ModelKind::kUnigram:
      return unigram_json(m);
    case ModelKind::kWordPiece:
      return word_piece_json(m);
    default:
      fail(Code::kInternal, "write_tokenizer_json: expected a model that spec_from_gguf makes");
  }
}

std::map<int32_t, std::string> names_by_id(const TokenizerSpec& spec) {
  std::map<int32_t, std::string> names;
  for (const auto& [token, id] : spec.model.vocab) names[id] = token;
  for (const AddedToken& t : spec.added_tokens) names[t.id] = t.content;
  return names;
}

std::string tokenizer_config_json(const TokenizerSpec& spec, const GgufVocab& vocab, int64_t context_length) {
  Json added = Json::object();
  for (const AddedToken& t : spec.added_tokens) added[std::to_string(t.id)] = added_token_json(t);
  Json config;
  config["added_tokens_decoder"] = std::move(added);
  const auto name = [&](const char* key, const std::optional<int32_t>& id) {
    if (id && *id >= 0 && *id < static_cast<int64_t>(vocab.tokens.size())) config[key] = vocab.tokens[*id];
  };
  name("bos_token", vocab.bos);
  config["clean_up_tokenization_spaces"] = false;
  name("eos_token", vocab.eos);
  config["model_max_length"] = context_length;
  name("pad_token", vocab.pad);
  config["tokenizer_class"] = "PreTrainedTokenizerFast";
  name("unk_token", vocab.unk);
  if (!vocab.named_templates.empty()) {  // several: the one form that every version of transformers reads
    Json templates = Json::array();
    if (!vocab.chat_template.empty())
      templates.push_back({{"name", "default"}, {"template", vocab.chat_template}});
    for (const auto& [title, source] : vocab.named_templates)
      templates.push_back({{"name", title}, {"template", source}});
    config["chat_template"] = std::move(templates);
  }
  return config.dump(2) + "\n";
}

}  // namespace

std::string write_tokenizer_json(const TokenizerSpec& spec) {
  std::vector<Json> added, normalizers, pre_tokenizers, decoders;
  for (const AddedToken& t : spec.added_tokens) {
    Json token{{"id", t.id}};
    token.update(added_token_json(t));
    added.push_back(std::move(token));
  }
  for (const NormalizerStep& s : spec.normalizer) normalizers.push_back(normalizer_json(s));
  for (const PreTokenizerStep& s : spec.pre_tokenizer) pre_tokenizers.push_back(pre_tokenizer_json(s));
  for (const DecoderStep& s : spec.decoder) decoders.push_back(decoder_json(s));
  Json head = {{"version", "1.0"}, {"truncation", nullptr}, {"padding", nullptr}};
  head["added_tokens"] = added;
  head["normalizer"] = sequence(std::move(normalizers), "normalizers");
  head["pre_tokenizer"] = sequence(std::move(pre_tokenizers), "pretokenizers");
  head["post_processor"] = post_processor_json(spec.post_processor, names_by_id(spec));
  head["decoder"] = sequence(std::move(decoders), "decoders");
  std::string out = head.dump(2);
  out.resize(out.size() - 2);  // "\n}": the model follows
  return out + ",\n  \"model\": " + model_json(spec.model) + "\n}\n";
}

TokenizerFiles tokenizer_files_from_gguf(const GgufVocab& vocab, int64_t context_length,
                                         const std::string& where) {
  const TokenizerSpec spec = spec_from_gguf(vocab, where);
  return {write_tokenizer_json(spec), tokenizer_config_json(spec, vocab, context_length),
          vocab.named_templates.empty() ? vocab.chat_template : std::string()};
}

}  // namespace awq
