// The tokenizer of a model directory: tokenizer.json, or a SentencePiece model together with what the JSON
// files beside it say, read as transformers' tokenizers of the Llama family read them.
#include <algorithm>
#include <array>
#include <map>

#include "base/system.h"
#include "tokenizer/spec_parts.h"

namespace awq {
namespace {

namespace fs = std::filesystem;

// In the order in which transformers gives ids to those that the vocabulary lacks.
constexpr std::array kNamedTokens{"bos_token", "eos_token", "unk_token", "sep_token",
                                  "pad_token", "cls_token", "mask_token"};
constexpr std::array kTokenLists{"additional_special_tokens", "extra_special_tokens"};

// Classes whose ids are those of the SentencePiece model, with <s> in front where the file does not say.
constexpr std::array kLlamaLike{"LlamaTokenizer",         "LlamaTokenizerFast",     "LLaMATokenizer",
                                "CodeLlamaTokenizer",     "CodeLlamaTokenizerFast", "GemmaTokenizer",
                                "GemmaTokenizerFast",     "InternLMTokenizer",      "InternLM2Tokenizer",
                                "InternLM2TokenizerFast", "BaichuanTokenizer",      "YiTokenizer"};

// The JSON object in a file, empty where there is none. Owns its parser, which the nodes point into.
class JsonFile {
 public:
  explicit JsonFile(const fs::path& path) : where_(path.string()) {
    if (!fs::is_regular_file(path)) return;
    simdjson::dom::element document;
    if (const auto error = parser_.parse(read_text_file(path)).get(document))
      fail(Code::kBadFile, "{}: expected JSON, got: {}", where_, simdjson::error_message(error));
    if (!document.is_object()) fail(Code::kBadFile, "{}: expected a JSON object", where_);
    root_.emplace(document, "", where_);
  }
  JsonFile(const JsonFile&) = delete;
  std::optional<JsonNode> find(std::string_view key) const { return root_ ? root_->find(key) : std::nullopt; }
  const std::optional<JsonNode>& root() const { return root_; }

 private:
  simdjson::dom::parser parser_;
  std::string where_;
  std::optional<JsonNode> root_;
};

// Adds to the specification of the model what its neighbours say.
class Neighbours {
 public:
  Neighbours(TokenizerSpec& spec, const fs::path& dir)
      : spec_(spec),
        config_(dir / "tokenizer_config.json"),
        special_map_(dir / "special_tokens_map.json"),
        added_(dir / "added_tokens.json"),
        where_((dir / "tokenizer_config.json").string()) {
    for (const auto& [token, id] : spec.model.vocab) {
      ids_[token] = id;
      next_id_ = std::max(next_id_, id + 1);
    }
  }

  void apply() {
    read_added_decoder();
    read_added_json();
    for (const JsonFile* file : {&config_, &special_map_}) {
      for (const char* name : kNamedTokens)
        if (const auto token = file->find(name)) named_[name] = special(*token);
      for (const char* list : kTokenLists)
        if (const auto tokens = file->find(list); tokens && tokens->is_array())
          for (const JsonNode& token : tokens->items()) special(token);
    }
    set_spaces();
    set_ends();
  }

 private:
  AddedToken* find(const std::string& content) {
    const auto it = std::find_if(spec_.added_tokens.begin(), spec_.added_tokens.end(),
                                 [&](const AddedToken& t) { return t.content == content; });
    return it == spec_.added_tokens.end() ? nullptr : &*it;
  }
  void add(AddedToken t) {
    next_id_ = std::max(next_id_, t.id + 1);
    if (AddedToken* old = find(t.content)) {
      *old = std::move(t);
    } else {
      spec_.added_tokens.push_back(std::move(t));
    }
  }

  void read_added_decoder() {
    const auto decoder = config_.find("added_tokens_decoder");
    if (!decoder) return;
    for (const auto& field : decoder->as_object()) {
      const JsonNode n = decoder->child(field.value, field.key);
      const std::string key(field.key);
      if (key.empty() || key.size() > 9 ||
          !std::all_of(key.begin(), key.end(), [](char c) { return c >= '0' && c <= '9'; }))
        n.bad("an id as key");
      add(read_added_token(n, std::stoi(key)));
    }
  }

  void read_added_json() {
    if (!added_.root()) return;
    for (const auto& field : added_.root()->as_object()) {
      AddedToken t;
      t.content = std::string(field.key);
      t.id = static_cast<int32_t>(added_.root()->child(field.value, field.key).as_int());
      if (!find(t.content)) add(std::move(t));
    }
  }

  // A special token, given as its text or as an object. Returns its text.
  std::string special(const JsonNode& n) {
    const std::string content = n.is_string() ? n.as_string() : n.at("content").as_string();
    if (content.empty()) return content;
    AddedToken t;
    if (const AddedToken* old = find(content)) {
      t = *old;
    } else if (!n.is_string()) {
      t = read_added_token(n, next_id_);
      t.normalized = n.flag("normalized", false);
    }
    t.content = content;
    t.special = true;
    if (!find(content)) {
      const auto it = ids_.find(content);
      t.id = it == ids_.end() ? next_id_ : it->second;
    }
    add(std::move(t));
    return content;
  }

  void set_spaces() {
    SentencePieceRules& rules = spec_.normalizer.front().rules;
    rules.prefix_first_only = !flag("legacy").value_or(true);
    if (const auto prefix = flag("add_prefix_space"); prefix && !*prefix) {
      rules.add_dummy_prefix = false;
      spec_.decoder.front().drop_prefix = false;
    }
  }

  void set_ends() {
    const auto cls = config_.find("tokenizer_class");
    const std::string name = cls ? cls->as_string() : kLlamaLike[0];
    const auto add_bos = flag("add_bos_token"), add_eos = flag("add_eos_token");
    const bool known = std::find(kLlamaLike.begin(), kLlamaLike.end(), name) != kLlamaLike.end();
    if (!known && !add_bos)
      fail(Code::kUnsupported,
           "{}: tokenizer_class '{}' without a tokenizer.json is not supported: it may change the ids of the "
           "SentencePiece model (save it as tokenizer.json with transformers)",
           where_, name);
    PostStep around;
    const auto end = [&](const char* key, const char* otherwise, std::vector<int32_t>& side) {
      const std::string content = named_.contains(key) ? named_[key] : otherwise;
      if (const AddedToken* t = find(content)) side.push_back(t->id);
    };
    if (add_bos.value_or(true)) end("bos_token", "<s>", around.before);
    if (add_eos.value_or(false)) end("eos_token", "</s>", around.after);
    if (!around.before.empty() || !around.after.empty()) spec_.post_processor.push_back(std::move(around));
  }

  std::optional<bool> flag(const char* key) const {
    if (!config_.find(key)) return std::nullopt;
    return config_.root()->flag(key, false);
  }

  TokenizerSpec& spec_;
  JsonFile config_, special_map_, added_;
  std::string where_;
  std::map<std::string, int32_t> ids_;
  std::map<std::string, std::string> named_;
  int32_t next_id_ = 0;
};

}  // namespace

std::shared_ptr<const Tokenizer> Tokenizer::from_dir(const fs::path& dir) {
  const fs::path json = dir / "tokenizer.json";
  if (fs::is_regular_file(json)) return from_json(read_text_file(json), json.string());
  const fs::path model = dir / "tokenizer.model";
  if (fs::is_regular_file(model)) {
    TokenizerSpec spec = spec_from_sentencepiece(read_text_file(model), model.string());
    Neighbours(spec, dir).apply();
    return make_tokenizer(spec, model.string());
  }
  fail(Code::kNotFound, "{}: expected a tokenizer.json or tokenizer.model in this folder, found none",
       dir.string());
}

}  // namespace awq
