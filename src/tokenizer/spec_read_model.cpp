// The model and the added tokens of a tokenizer.json.
#include <array>

#include "tokenizer/spec_parts.h"
#include "tokenizer/unigram.h"

namespace awq {
namespace {

using Node = JsonNode;

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

// Random changes would make ids of one text differ from time to time.
void refuse_if_set(const Node& n, std::string_view key) {
  const auto value = n.find(key);
  if (value && value->as_number() != 0) value->unsupported("a value", "null");
}

std::string text_or_empty(const Node& n, std::string_view key) {
  const auto value = n.find(key);
  return value ? value->as_string() : std::string();
}

void read_vocab(const Node& n, ModelSpec& m) {
  const Node vocab = n.at("vocab");
  for (const auto& field : vocab.as_object()) {
    int64_t id;
    if (field.value.get(id) || id < 0 || id > INT32_MAX)
      vocab.child(field.value, field.key).bad(fmt::format("a number from 0 to {}", INT32_MAX));
    m.vocab.emplace_back(field.key, static_cast<int32_t>(id));
  }
}

void read_bpe(const Node& n, ModelSpec& m) {
  refuse_if_set(n, "dropout");
  m.subword_prefix = text_or_empty(n, "continuing_subword_prefix");
  m.word_suffix = text_or_empty(n, "end_of_word_suffix");
  m.fuse_unk = n.flag("fuse_unk", false);
  m.byte_fallback = n.flag("byte_fallback", false);
  m.ignore_merges = n.flag("ignore_merges", false);
  read_vocab(n, m);
  const Node merges = n.at("merges");
  size_t rank = 0;
  for (const simdjson::dom::element e : merges.as_array())
    m.merges.push_back(read_merge(merges.child(e, std::to_string(rank++))));
}

// The vocabulary is a list of [token, score]; ids are places in it.
void read_unigram(const Node& n, ModelSpec& m) {
  m.byte_fallback = n.flag("byte_fallback", false);
  for (const Node& entry : n.at("vocab").items()) {
    const std::vector<Node> parts = entry.items();
    if (parts.size() != 2) entry.bad("a token and its score");
    m.vocab.emplace_back(parts[0].as_string(), static_cast<int32_t>(m.vocab.size()));
    m.scores.push_back(score_as_read(parts[1].as_number()));
  }
  if (const auto unk = n.find("unk_id")) {
    if (m.vocab.empty()) unk->bad("none for an empty vocabulary");
    m.unk_id = static_cast<int32_t>(unk->as_int(static_cast<int64_t>(m.vocab.size()) - 1));
  }
}

constexpr std::array<Named<ModelKind>, 4> kModels{{{"BPE", ModelKind::kBpe},
                                                   {"Unigram", ModelKind::kUnigram},
                                                   {"WordPiece", ModelKind::kWordPiece},
                                                   {"WordLevel", ModelKind::kWordLevel}}};

}  // namespace

ModelSpec read_model(const JsonNode& n) {
  ModelSpec m;
  // Files from before 2020 leave the type out; only Unigram has a list as vocabulary.
  if (const auto type = n.find("type")) {
    m.kind = type->choose(kModels, "model");
  } else if (const auto vocab = n.find("vocab"); vocab && vocab->is_array()) {
    m.kind = ModelKind::kUnigram;
  }
  if (m.kind == ModelKind::kUnigram) {
    read_unigram(n, m);
    return m;
  }
  if (std::string unk = text_or_empty(n, "unk_token"); !unk.empty()) m.unk_token = std::move(unk);
  if (m.kind == ModelKind::kBpe) {
    read_bpe(n, m);
    return m;
  }
  m.subword_prefix = text_or_empty(n, "continuing_subword_prefix");
  if (const auto longest = n.find("max_input_chars_per_word")) m.longest_word = longest->as_int();
  read_vocab(n, m);
  return m;
}

AddedToken read_added_token(const JsonNode& n, std::optional<int32_t> id) {
  AddedToken t;
  t.id = id ? *id : static_cast<int32_t>(n.at("id").as_int());
  t.content = n.at("content").as_string();
  t.special = n.flag("special", false);
  t.normalized = n.flag("normalized", !t.special);
  t.lstrip = n.flag("lstrip", false);
  t.rstrip = n.flag("rstrip", false);
  t.single_word = n.flag("single_word", false);
  return t;
}

}  // namespace awq
