#include "checkpoint/chat_source.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/system.h"
#include "checkpoint/gguf_vocab.h"
#include "checkpoint/json_file.h"

namespace awq {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* kDefault = "default";
constexpr const char* kTokenNames[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                       "pad_token", "cls_token", "mask_token"};

// "chat_template" of a JSON file: one template, or several with names.
void add_from_json(const Json& file, const std::string& where, ChatSource& out) {
  const auto it = file.find("chat_template");
  if (it == file.end() || it->is_null()) return;
  const std::string key = where + ": key 'chat_template'";
  if (it->is_string()) {
    out.templates.push_back({kDefault, it->get<std::string>(), key});
    return;
  }
  if (!it->is_array()) fail(Code::kBadFile, "{}: expected a string or a list, got {}", key, it->type_name());
  for (const Json& entry : *it) {
    const bool fits = entry.is_object() && entry.contains("name") && entry.contains("template") &&
                      entry["name"].is_string() && entry["template"].is_string();
    if (!fits)
      fail(Code::kBadFile, "{}: expected entries {{\"name\": ..., \"template\": ...}}, got {}", key,
           entry.type_name());
    const auto name = entry["name"].get<std::string>();
    out.templates.push_back({name, entry["template"].get<std::string>(), key + ", '" + name + "'"});
  }
}

void add_additional(const fs::path& dir, ChatSource& out) {
  std::error_code error;
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(dir, error))
    if (entry.is_regular_file() && entry.path().extension() == ".jinja") files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  for (const fs::path& file : files)
    out.templates.push_back({file.stem().string(), read_text_file(file), file.string()});
}

// A token is a string, or {"content": ...}.
void add_special_tokens(const Json& file, Json& tokens) {
  const auto text = [](const Json& value) {
    return value.is_object() && value.contains("content") ? value["content"] : value;
  };
  for (const char* name : kTokenNames)
    if (file.contains(name) && text(file[name]).is_string() && !tokens.contains(name))
      tokens[name] = text(file[name]);
  const auto more = file.find("additional_special_tokens");
  if (more == file.end() || !more->is_array() || more->empty() ||
      tokens.contains("additional_special_tokens"))
    return;
  Json list = Json::array();
  for (const Json& token : *more)
    if (text(token).is_string()) list.push_back(text(token));
  tokens["additional_special_tokens"] = std::move(list);
}

ChatSource source_of_directory(const fs::path& dir) {
  ChatSource out;
  out.where = dir.string();
  Json tokens = Json::object();
  const fs::path jinja = dir / "chat_template.jinja", config = dir / "tokenizer_config.json";
  if (fs::exists(jinja)) {
    out.templates.push_back({kDefault, read_text_file(jinja), jinja.string()});
    add_additional(dir / "additional_chat_templates", out);
  }
  if (fs::exists(config)) {
    const Json file = read_json_object(config);
    if (out.templates.empty()) add_from_json(file, config.string(), out);
    add_special_tokens(file, tokens);
  }
  const fs::path legacy = dir / "chat_template.json", map = dir / "special_tokens_map.json";
  if (out.templates.empty() && fs::exists(legacy))
    add_from_json(read_json_object(legacy), legacy.string(), out);
  if (fs::exists(map)) add_special_tokens(read_json_object(map), tokens);
  out.special_tokens = tokens.dump();
  return out;
}

ChatSource source_of_gguf(const GgufFile& gguf) {
  ChatSource out;
  out.where = gguf.path().string();
  const auto vocab = gguf_vocab(gguf);
  if (!vocab) return out;
  const std::string key = out.where + ": key 'tokenizer.chat_template";
  if (!vocab->chat_template.empty()) out.templates.push_back({kDefault, vocab->chat_template, key + "'"});
  for (const auto& [name, source] : vocab->named_templates)
    out.templates.push_back({name, source, key + "." + name + "'"});
  Json tokens = Json::object();
  const auto add = [&](const char* name, std::optional<int32_t> id) {
    if (id) tokens[name] = vocab->tokens[static_cast<size_t>(*id)];
  };
  add("bos_token", vocab->bos);
  add("eos_token", vocab->eos);
  add("unk_token", vocab->unk);
  add("pad_token", vocab->pad);
  out.special_tokens = tokens.dump(-1, ' ', false, Json::error_handler_t::replace);
  return out;
}

}  // namespace

ChatSource chat_source(const Checkpoint& checkpoint) {
  return checkpoint.gguf() ? source_of_gguf(*checkpoint.gguf()) : source_of_directory(checkpoint.path());
}

}  // namespace awq
