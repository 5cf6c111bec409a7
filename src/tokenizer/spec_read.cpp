// tokenizer.json -> TokenizerSpec. The format is defined by the serializers of the Hugging Face `tokenizers`
// library.
#include <simdjson.h>

#include <algorithm>
#include <array>
#include <map>

#include "base/error.h"
#include "tokenizer/spec.h"
#include "tokenizer/unicode.h"

namespace awq {
namespace {

using simdjson::dom::array;
using simdjson::dom::element;
using simdjson::dom::element_type;
using simdjson::dom::object;

constexpr int kMostNesting = 16;  // of Sequence components

template <class Value>
struct Named {
  std::string_view name;
  Value value;
};

// One JSON value and how to reach it, so that every error can say where it is.
class Node {
 public:
  Node(element value, std::string path, const std::string& where)
      : value_(value), path_(std::move(path)), where_(&where) {}

  [[noreturn]] void bad(std::string_view expected) const {
    fail(Code::kBadFile, "{}: {}: expected {}, got {}", *where_, path_, expected, kind());
  }
  [[noreturn]] void unsupported(std::string_view what, std::string_view supported) const {
    fail(Code::kUnsupported, "{}: {}: {} is not supported (supported: {})", *where_, path_, what, supported);
  }
  const std::string& path() const { return path_; }
  bool is_null() const { return value_.is_null(); }
  bool is_array() const { return value_.is_array(); }
  bool is_string() const { return value_.is_string(); }

  object as_object() const {
    object o;
    if (value_.get(o)) bad("an object");
    return o;
  }
  array as_array() const {
    array a;
    if (value_.get(a)) bad("an array");
    return a;
  }
  std::string as_string() const {
    std::string_view s;
    if (value_.get(s)) bad("a string");
    return std::string(s);
  }
  int64_t as_int(int64_t most = INT32_MAX) const {
    int64_t i;
    if (value_.get(i) || i < 0 || i > most) bad(fmt::format("a number from 0 to {}", most));
    return i;
  }
  Node child(element value, std::string_view name) const {
    return {value, path_.empty() ? std::string(name) : fmt::format("{}.{}", path_, name), *where_};
  }
  std::vector<Node> items() const {
    std::vector<Node> out;
    size_t i = 0;
    for (element e : as_array()) out.push_back({e, fmt::format("{}[{}]", path_, i++), *where_});
    return out;
  }
  // Absent and null are the same here.
  std::optional<Node> find(std::string_view key) const {
    element e;
    if (as_object().at_key(key).get(e) || e.is_null()) return std::nullopt;
    return child(e, key);
  }
  Node at(std::string_view key) const {
    if (auto n = find(key)) return *n;
    fail(Code::kBadFile, "{}: {}: expected a field '{}', got none", *where_,
         path_.empty() ? "top level" : path_, key);
  }
  bool flag(std::string_view key, bool otherwise) const {
    const auto n = find(key);
    if (!n) return otherwise;
    bool b;
    if (n->value_.get(b)) n->bad("true or false");
    return b;
  }
  template <class Table>
  auto choose(const Table& table, std::string_view what) const {
    const std::string name = as_string();
    std::string names;
    for (const auto& row : table) {
      if (row.name == name) return row.value;
      names += names.empty() ? "" : ", ";
      names += row.name;
    }
    unsupported(fmt::format("{} '{}'", what, name), names);
  }

 private:
  std::string kind() const {
    switch (value_.type()) {
      case element_type::ARRAY:
        return "an array";
      case element_type::OBJECT:
        return "an object";
      case element_type::STRING:
        return "a string";
      case element_type::BOOL:
        return "true or false";
      case element_type::NULL_VALUE:
        return "null";
      default:
        return simdjson::minify(value_);
    }
  }
  element value_;
  std::string path_;
  const std::string* where_;
};

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

constexpr std::array<Named<NormalizerKind>, 9> kNormalizers{{{"NFC", NormalizerKind::kNfc},
                                                             {"NFD", NormalizerKind::kNfd},
                                                             {"NFKC", NormalizerKind::kNfkc},
                                                             {"NFKD", NormalizerKind::kNfkd},
                                                             {"Lowercase", NormalizerKind::kLowercase},
                                                             {"Prepend", NormalizerKind::kPrepend},
                                                             {"Replace", NormalizerKind::kReplace},
                                                             {"Strip", NormalizerKind::kStrip},
                                                             {"ByteLevel", NormalizerKind::kByteLevel}}};

NormalizerStep read_normalizer(const Node& n) {
  NormalizerStep s{};
  s.kind = n.at("type").choose(kNormalizers, "type");
  if (s.kind == NormalizerKind::kPrepend) s.content = n.at("prepend").as_string();
  if (s.kind == NormalizerKind::kReplace) {
    s.pattern = read_pattern(n.at("pattern"));
    s.content = n.at("content").as_string();
  }
  if (s.kind == NormalizerKind::kStrip) {
    s.strip_left = n.flag("strip_left", true);
    s.strip_right = n.flag("strip_right", true);
  }
  return s;
}

constexpr std::array<Named<PreTokenizerKind>, 7> kPreTokenizers{
    {{"ByteLevel", PreTokenizerKind::kByteLevel},
     {"Split", PreTokenizerKind::kSplit},
     {"Digits", PreTokenizerKind::kDigits},
     {"Whitespace", PreTokenizerKind::kWhitespace},
     {"WhitespaceSplit", PreTokenizerKind::kWhitespaceSplit},
     {"Punctuation", PreTokenizerKind::kPunctuation},
     {"Metaspace", PreTokenizerKind::kMetaspace}}};

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
    case PreTokenizerKind::kWhitespace:
    case PreTokenizerKind::kWhitespaceSplit:
      break;
  }
  return s;
}

constexpr std::array<Named<DecoderKind>, 6> kDecoders{{{"ByteLevel", DecoderKind::kByteLevel},
                                                       {"Replace", DecoderKind::kReplace},
                                                       {"ByteFallback", DecoderKind::kByteFallback},
                                                       {"Fuse", DecoderKind::kFuse},
                                                       {"Strip", DecoderKind::kStrip},
                                                       {"Metaspace", DecoderKind::kMetaspace}}};

DecoderStep read_decoder(const Node& n) {
  DecoderStep s{};
  s.kind = n.at("type").choose(kDecoders, "type");
  if (s.kind == DecoderKind::kReplace) {
    s.pattern = read_pattern(n.at("pattern"));
    s.content = n.at("content").as_string();
  }
  if (s.kind == DecoderKind::kStrip) {
    s.content = read_character(n.at("content"));
    s.start = n.at("start").as_int();
    s.stop = n.at("stop").as_int();
  }
  if (s.kind == DecoderKind::kMetaspace) {
    s.content = read_character(n.at("replacement"));
    s.prepend_scheme = read_prepend_scheme(n);
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

void read_post_processor(const Node& n, std::vector<PostStep>& out) {
  const std::string type = n.at("type").as_string();
  if (type == "ByteLevel") return;  // moves offsets only
  if (type != "TemplateProcessing")
    n.unsupported(fmt::format("type '{}'", type), "ByteLevel, TemplateProcessing, Sequence");
  out.push_back(read_template(n));
}

AddedToken read_added_token(const Node& n) {
  AddedToken t;
  t.id = static_cast<int32_t>(n.at("id").as_int());
  t.content = n.at("content").as_string();
  t.special = n.flag("special", false);
  t.normalized = n.flag("normalized", !t.special);
  t.lstrip = n.flag("lstrip", false);
  t.rstrip = n.flag("rstrip", false);
  t.single_word = n.flag("single_word", false);
  return t;
}

std::pair<std::string, std::string> read_merge(const Node& n) {
  if (n.is_array()) {
    const std::vector<Node> parts = n.items();
    if (parts.size() != 2) n.bad("two tokens");
    return {parts[0].as_string(), parts[1].as_string()};
  }
  const std::string both = n.as_string();
  const size_t space = both.find(' ');
  if (space == std::string::npos || both.find(' ', space + 1) != std::string::npos) n.bad("\"token token\"");
  return {both.substr(0, space), both.substr(space + 1)};
}

void refuse_if_set(const Node& n, std::string_view key) {
  const auto value = n.find(key);
  if (value && !(value->is_string() && value->as_string().empty())) value->unsupported("a value", "null");
}

BpeSpec read_model(const Node& n) {
  // Files from before 2020 leave the type out; only BPE has merges.
  if (const auto type = n.find("type"); type && type->as_string() != "BPE")
    type->unsupported(fmt::format("model '{}'", type->as_string()), "BPE");
  for (const std::string_view key : {"dropout", "continuing_subword_prefix", "end_of_word_suffix"})
    refuse_if_set(n, key);
  BpeSpec m;
  if (const auto unk = n.find("unk_token"); unk && !unk->as_string().empty()) m.unk_token = unk->as_string();
  m.fuse_unk = n.flag("fuse_unk", false);
  m.byte_fallback = n.flag("byte_fallback", false);
  m.ignore_merges = n.flag("ignore_merges", false);
  const Node vocab = n.at("vocab");
  for (const auto& field : vocab.as_object()) {
    int64_t id;
    if (field.value.get(id) || id < 0 || id > INT32_MAX)
      vocab.child(field.value, field.key).bad(fmt::format("a number from 0 to {}", INT32_MAX));
    m.vocab.emplace_back(field.key, static_cast<int32_t>(id));
  }
  const Node merges = n.at("merges");
  size_t rank = 0;
  for (element e : merges.as_array()) {
    m.merges.push_back(read_merge(merges.child(e, std::to_string(rank))));
    ++rank;
  }
  return m;
}

}  // namespace

TokenizerSpec read_tokenizer_json(std::string_view json, const std::string& where) {
  simdjson::dom::parser parser;
  element document;
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
