// tokenizer.json -> TokenizerSpec. The format is defined by the serializers of the Hugging Face `tokenizers`
// library.
#include <algorithm>
#include <array>
#include <map>

#include "base/error.h"
#include "tokenizer/json_node.h"
#include "tokenizer/spec_parts.h"
#include "tokenizer/unicode.h"

namespace awq {
namespace {

using Node = JsonNode;

constexpr int kMostNesting = 16;  // of Sequence components

SplitPattern read_pattern(const Node& n) {
  if (const auto literal = n.find("String")) return {literal->as_string(), false};
  if (const auto regex = n.find("Regex")) return {regex->as_string(), true};
  n.bad("{\"String\": ...} or {\"Regex\": ...}");
}

// Flattens Sequence components; `items` is the key of a sequence's list.
template <class Read>
void each_component(const Node& n, std::string_view items, Read read, int depth = 0) {
  if (depth > kMostNesting) n.bad(fmt::format("at most {} sequences inside one another", kMostNesting));
  if (n.at("type").as_string() != "Sequence") return read(n);
  for (const Node& item : n.at(items).items()) each_component(item, items, read, depth + 1);
}

constexpr std::array<Named<NormalizerKind>, 13> kNormalizers{{{"NFC", NormalizerKind::kNfc},
                                                              {"NFD", NormalizerKind::kNfd},
                                                              {"NFKC", NormalizerKind::kNfkc},
                                                              {"NFKD", NormalizerKind::kNfkd},
                                                              {"Lowercase", NormalizerKind::kLowercase},
                                                              {"Prepend", NormalizerKind::kPrepend},
                                                              {"Replace", NormalizerKind::kReplace},
                                                              {"Strip", NormalizerKind::kStrip},
                                                              {"StripAccents", NormalizerKind::kStripAccents},
                                                              {"ByteLevel", NormalizerKind::kByteLevel},
                                                              {"Precompiled", NormalizerKind::kPrecompiled},
                                                              {"Nmt", NormalizerKind::kNmt},
                                                              {"BertNormalizer", NormalizerKind::kBert}}};

std::string read_base64(const Node& n) {
  const std::string text = n.as_string();
  std::string out;
  uint32_t bits = 0;
  int held = 0;
  size_t digits = 0;
  for (const char c : text) {
    if (c == '=') break;
    constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const size_t digit = kDigits.find(c);
    if (digit == std::string_view::npos) n.bad("base64");
    ++digits;
    bits = bits << 6 | static_cast<uint32_t>(digit);
    held += 6;
    if (held < 8) continue;
    held -= 8;
    out += static_cast<char>(bits >> held & 0xff);
  }
  if (text.size() % 4 != 0 || text.size() - digits > 2) n.bad("base64");
  return out;
}

NormalizerStep read_normalizer(const Node& n) {
  NormalizerStep s{};
  s.kind = n.at("type").choose(kNormalizers, "type");
  switch (s.kind) {
    case NormalizerKind::kPrepend:
      s.content = n.at("prepend").as_string();
      break;
    case NormalizerKind::kReplace:
      s.pattern = read_pattern(n.at("pattern"));
      s.content = n.at("content").as_string();
      break;
    case NormalizerKind::kStrip:
      s.strip_left = n.flag("strip_left", true);
      s.strip_right = n.flag("strip_right", true);
      break;
    case NormalizerKind::kPrecompiled:
      if (const auto rules = n.find("precompiled_charsmap")) s.charsmap = read_base64(*rules);
      break;
    case NormalizerKind::kBert:
      s.clean_text = n.flag("clean_text", true);
      s.chinese_chars = n.flag("handle_chinese_chars", true);
      s.lowercase = n.flag("lowercase", true);
      s.strip_accents = n.flag("strip_accents", s.lowercase);
      break;
    default:
      break;
  }
  return s;
}

constexpr std::array<Named<PreTokenizerKind>, 11> kPreTokenizers{
    {{"ByteLevel", PreTokenizerKind::kByteLevel},
     {"Split", PreTokenizerKind::kSplit},
     {"Digits", PreTokenizerKind::kDigits},
     {"Whitespace", PreTokenizerKind::kWhitespace},
     {"WhitespaceSplit", PreTokenizerKind::kWhitespaceSplit},
     {"Punctuation", PreTokenizerKind::kPunctuation},
     {"Metaspace", PreTokenizerKind::kMetaspace},
     {"BertPreTokenizer", PreTokenizerKind::kBert},
     {"CharDelimiterSplit", PreTokenizerKind::kDelimiter},
     {"FixedLength", PreTokenizerKind::kFixedLength},
     {"UnicodeScripts", PreTokenizerKind::kUnicodeScripts}}};

constexpr std::array<Named<SplitBehavior>, 5> kBehaviors{
    {{"Isolated", SplitBehavior::kIsolated},
     {"Removed", SplitBehavior::kRemoved},
     {"MergedWithPrevious", SplitBehavior::kMergedWithPrevious},
     {"MergedWithNext", SplitBehavior::kMergedWithNext},
     {"Contiguous", SplitBehavior::kContiguous}}};

constexpr std::array<Named<PrependScheme>, 3> kPrependSchemes{
    {{"always", PrependScheme::kAlways}, {"first", PrependScheme::kFirst}, {"never", PrependScheme::kNever}}};

// Files older than prepend_scheme say add_prefix_space.
PrependScheme read_prepend_scheme(const Node& n) {
  if (const auto scheme = n.find("prepend_scheme")) return scheme->choose(kPrependSchemes, "prepend_scheme");
  return n.flag("add_prefix_space", true) ? PrependScheme::kAlways : PrependScheme::kNever;
}

std::string read_character(const Node& n) {
  const std::string s = n.as_string();
  if (s.empty() || utf8_length(s[0]) != s.size()) n.bad("one character");
  return s;
}

PreTokenizerStep read_pre_tokenizer(const Node& n) {
  PreTokenizerStep s{};
  s.kind = n.at("type").choose(kPreTokenizers, "type");
  switch (s.kind) {
    case PreTokenizerKind::kByteLevel:
      s.add_prefix_space = n.flag("add_prefix_space", true);
      s.trim_offsets = n.flag("trim_offsets", true);
      s.use_regex = n.flag("use_regex", true);
      break;
    case PreTokenizerKind::kSplit:
      s.pattern = read_pattern(n.at("pattern"));
      s.behavior = n.at("behavior").choose(kBehaviors, "behavior");
      s.invert = n.flag("invert", false);
      break;
    case PreTokenizerKind::kPunctuation:
      if (const auto behavior = n.find("behavior")) s.behavior = behavior->choose(kBehaviors, "behavior");
      break;
    case PreTokenizerKind::kDigits:
      s.individual_digits = n.flag("individual_digits", false);
      break;
    case PreTokenizerKind::kMetaspace:
      s.replacement = read_character(n.at("replacement"));
      s.prepend_scheme = read_prepend_scheme(n);
      s.split = n.flag("split", true);
      break;
    case PreTokenizerKind::kDelimiter:
      s.replacement = read_character(n.at("delimiter"));
      break;
    case PreTokenizerKind::kFixedLength:
      s.length = 5;
      if (const auto length = n.find("length")) s.length = length->as_int();
      if (s.length == 0) n.at("length").bad("a number of 1 or more");
      break;
    default:
      break;
  }
  return s;
}

constexpr std::array<Named<DecoderKind>, 9> kDecoders{{{"ByteLevel", DecoderKind::kByteLevel},
                                                       {"Replace", DecoderKind::kReplace},
                                                       {"ByteFallback", DecoderKind::kByteFallback},
                                                       {"Fuse", DecoderKind::kFuse},
                                                       {"Strip", DecoderKind::kStrip},
                                                       {"Metaspace", DecoderKind::kMetaspace},
                                                       {"BPEDecoder", DecoderKind::kBpe},
                                                       {"WordPiece", DecoderKind::kWordPiece},
                                                       {"CTC", DecoderKind::kCtc}}};

DecoderStep read_decoder(const Node& n) {
  DecoderStep s{};
  s.kind = n.at("type").choose(kDecoders, "type");
  switch (s.kind) {
    case DecoderKind::kReplace:
      s.pattern = read_pattern(n.at("pattern"));
      s.content = n.at("content").as_string();
      break;
    case DecoderKind::kStrip:
      s.content = read_character(n.at("content"));
      s.start = n.at("start").as_int();
      s.stop = n.at("stop").as_int();
      break;
    case DecoderKind::kMetaspace:
      s.content = read_character(n.at("replacement"));
      s.prepend_scheme = read_prepend_scheme(n);
      break;
    case DecoderKind::kBpe:
      s.content = n.at("suffix").as_string();
      break;
    case DecoderKind::kWordPiece:
      s.content = n.at("prefix").as_string();
      s.cleanup = n.flag("cleanup", true);
      break;
    case DecoderKind::kCtc:
      s.content = n.at("pad_token").as_string();
      s.word_delimiter = n.at("word_delimiter_token").as_string();
      s.cleanup = n.flag("cleanup", true);
      break;
    default:
      break;
  }
  return s;
}

// "single" of a TemplateProcessing: what stands before and after sequence A, which must appear once.
PostStep read_template(const Node& n) {
  PostStep step;
  std::map<std::string, std::vector<int32_t>> ids;
  if (const auto special = n.find("special_tokens"))
    for (const auto& field : special->as_object())
      for (const Node& id : special->child(field.value, field.key).at("ids").items())
        ids[std::string(field.key)].push_back(static_cast<int32_t>(id.as_int()));
  bool seen = false;
  for (const Node& item : n.at("single").items()) {
    if (const auto sequence = item.find("Sequence")) {
      if (seen || sequence->at("id").as_string() != "A") item.unsupported("this sequence", "A, once");
      seen = true;
      continue;
    }
    const Node name = item.at("SpecialToken").at("id");
    const auto it = ids.find(name.as_string());
    if (it == ids.end()) name.bad("a token listed under special_tokens");
    auto& side = seen ? step.after : step.before;
    side.insert(side.end(), it->second.begin(), it->second.end());
  }
  if (!seen) n.at("single").bad("the sequence A");
  return step;
}

// The id of ["</s>", 2].
int32_t read_named_id(const Node& n) {
  const std::vector<Node> parts = n.items();
  if (parts.size() != 2) n.bad("a token and its id");
  return static_cast<int32_t>(parts[1].as_int());
}

void read_post_processor(const Node& n, std::vector<PostStep>& out) {
  const std::string type = n.at("type").as_string();
  if (type == "ByteLevel") return;  // moves offsets only
  if (type == "BertProcessing" || type == "RobertaProcessing") {
    out.push_back({{read_named_id(n.at("cls"))}, {read_named_id(n.at("sep"))}});
  } else if (type == "TemplateProcessing") {
    out.push_back(read_template(n));
  } else {
    n.unsupported(fmt::format("type '{}'", type),
                  "ByteLevel, TemplateProcessing, BertProcessing, RobertaProcessing, Sequence");
  }
}

}  // namespace

TokenizerSpec read_tokenizer_json(std::string_view json, const std::string& where) {
  simdjson::dom::parser parser;
  simdjson::dom::element document;
  if (const auto error = parser.parse(json.data(), json.size()).get(document))
    fail(Code::kBadFile, "{}: expected JSON, got: {}", where, simdjson::error_message(error));
  const Node top(document, "", where);
  if (!document.is_object()) fail(Code::kBadFile, "{}: expected a JSON object", where);
  TokenizerSpec spec;
  spec.model = read_model(top.at("model"));
  if (const auto added = top.find("added_tokens"))
    for (const Node& t : added->items()) spec.added_tokens.push_back(read_added_token(t));
  if (const auto n = top.find("normalizer"))
    each_component(*n, "normalizers", [&](const Node& c) { spec.normalizer.push_back(read_normalizer(c)); });
  if (const auto n = top.find("pre_tokenizer"))
    each_component(*n, "pretokenizers",
                   [&](const Node& c) { spec.pre_tokenizer.push_back(read_pre_tokenizer(c)); });
  if (const auto n = top.find("post_processor"))
    each_component(*n, "processors", [&](const Node& c) { read_post_processor(c, spec.post_processor); });
  if (const auto n = top.find("decoder"))
    each_component(*n, "decoders", [&](const Node& c) { spec.decoder.push_back(read_decoder(c)); });
  return spec;
}

}  // namespace awq
