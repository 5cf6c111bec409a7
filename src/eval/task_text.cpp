#include "eval/task_text.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>

#include "base/error.h"
#include "base/sha256.h"
#include "base/system.h"
#include "checkpoint/json_file.h"

namespace awq {
namespace {

using nlohmann::ordered_json;

constexpr std::array<uint32_t, 9> kSpaces = {0x85, 0xA0, 0x1680, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000, 0x20};
bool is_space(uint32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x1F) || (c >= 0x2000 && c <= 0x200A) ||
         std::find(kSpaces.begin(), kSpaces.end(), c) != kSpaces.end();
}

bool continues(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

// The code point of the bytes of one character, as far as white space goes: at most three bytes.
uint32_t code_point(std::string_view bytes) {
  const auto b = [&](size_t i) { return static_cast<uint32_t>(static_cast<unsigned char>(bytes[i])); };
  if (bytes.size() == 1) return b(0);
  if (bytes.size() == 2) return (b(0) & 0x1F) << 6 | (b(1) & 0x3F);
  if (bytes.size() == 3) return (b(0) & 0x0F) << 12 | (b(1) & 0x3F) << 6 | (b(2) & 0x3F);
  return 0;
}

std::string found(const ordered_json& value) {
  std::string text = value.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
  constexpr size_t kShown = 60;
  if (text.size() > kShown) text = text.substr(0, kShown) + "...";
  return text;
}

std::string joined(std::initializer_list<const char*> keys) {
  std::string out;
  for (const char* key : keys) out += (out.empty() ? "\"" : " or \"") + std::string(key) + "\"";
  return out;
}

}  // namespace

std::string_view stripped_left(std::string_view text) {
  while (!text.empty()) {
    size_t length = 1;
    while (length < text.size() && continues(text[length])) ++length;
    if (!is_space(code_point(text.substr(0, length)))) break;
    text.remove_prefix(length);
  }
  return text;
}

std::string_view stripped_right(std::string_view text) {
  while (!text.empty()) {
    size_t start = text.size() - 1;
    while (start > 0 && continues(text[start])) --start;
    if (!is_space(code_point(text.substr(start)))) break;
    text = text.substr(0, start);
  }
  return text;
}

int64_t characters(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return !continues(c); });
}

void TaskLine::refuse(const std::string& expected_and_found) const { fail(Code::kBadFile, "{}: {}", where_, expected_and_found); }

const ordered_json* TaskLine::find(std::initializer_list<const char*> keys) const {
  for (const char* key : keys)
    if (const auto at = object_.find(key); at != object_.end()) return &*at;
  return nullptr;
}

std::string TaskLine::text(std::initializer_list<const char*> keys, bool may_be_blank) const {
  const ordered_json* value = find(keys);
  if (value == nullptr) refuse(fmt::format("expected the key {}, which is missing", joined(keys)));
  if (!value->is_string()) refuse(fmt::format("{}: expected a string, got {}", joined(keys), found(*value)));
  auto out = value->get<std::string>();
  if (!may_be_blank && stripped(out).empty()) refuse(fmt::format("{}: expected text, got only white space", joined(keys)));
  return out;
}

std::vector<std::string> TaskLine::choices(const char* key) const {
  const ordered_json* value = find({key});
  if (value == nullptr) refuse(fmt::format("expected the key \"{}\", which is missing", key));
  if (value->is_object() && value->contains("text")) value = &value->at("text");
  if (!value->is_array() || value->size() < 2) refuse(fmt::format("\"{}\": expected a list of at least two strings, got {}", key, found(*value)));
  std::vector<std::string> out;
  for (const ordered_json& choice : *value) {
    if (!choice.is_string() || choice.get_ref<const std::string&>().empty())
      refuse(fmt::format("\"{}\": expected strings that are not empty, got {}", key, found(choice)));
    out.push_back(choice.get<std::string>());
  }
  return out;
}

std::vector<std::string> TaskLine::labels() const {
  const ordered_json* value = find({"labels"});
  if (value == nullptr)
    if (const ordered_json* choices = find({"choices"}); choices != nullptr && choices->is_object() && choices->contains("label"))
      value = &choices->at("label");
  std::vector<std::string> out;
  if (value == nullptr) return out;
  if (!value->is_array()) refuse(fmt::format("\"labels\": expected a list of strings, got {}", found(*value)));
  for (const ordered_json& label : *value) {
    if (!label.is_string()) refuse(fmt::format("\"labels\": expected strings, got {}", found(label)));
    out.push_back(label.get<std::string>());
  }
  return out;
}

int64_t TaskLine::index(std::initializer_list<const char*> keys, int64_t choices, int64_t first) const {
  const ordered_json* value = find(keys);
  if (value == nullptr) refuse(fmt::format("expected the key {}, which is missing", joined(keys)));
  int64_t number = -1;
  if (value->is_number_integer()) number = value->get<int64_t>();
  if (value->is_string()) {
    const auto& digits = value->get_ref<const std::string&>();
    const auto end = std::from_chars(digits.data(), digits.data() + digits.size(), number);
    if (end.ec != std::errc() || end.ptr != digits.data() + digits.size()) number = -1;
  }
  if (number < first || number >= first + choices)
    refuse(fmt::format("{}: expected a whole number from {} to {}, the right choice, got {}", joined(keys), first, first + choices - 1, found(*value)));
  return number - first;
}

int64_t TaskLine::answer(int64_t choices) const {
  if (!has("answerKey")) return index({"answer", "label"}, choices);
  const std::vector<std::string> names = labels();
  const std::string key{stripped_left(text({"answerKey"}))};
  if (static_cast<int64_t>(names.size()) != choices)
    refuse(fmt::format("expected a label for each of the {} choices, got {}", choices, names.size()));
  const auto at = std::find(names.begin(), names.end(), key);
  if (at == names.end()) refuse(fmt::format("\"answerKey\": expected one of the labels, got \"{}\"", key));
  return at - names.begin();
}

TaskFile read_task_file(const std::string& path) {
  const std::string bytes = read_text_file(path);
  TaskFile file{std::filesystem::path(path).filename().string(), sha256_hex(bytes), {}};
  size_t number = 0;
  for (size_t begin = 0; begin < bytes.size();) {
    const size_t end = std::min(bytes.find('\n', begin), bytes.size());
    const std::string_view line = std::string_view(bytes).substr(begin, end - begin);
    begin = end + 1;
    ++number;
    if (stripped(line).empty()) continue;
    const std::string where = fmt::format("{}:{}", path, number);
    ordered_json object = parse_json(line, where);
    if (!object.is_object()) fail(Code::kBadFile, "{}: expected a JSON object, got {}", where, found(object));
    file.lines.emplace_back(std::move(object), where);
  }
  if (file.lines.empty()) fail(Code::kBadFile, "{}: expected one JSON object a line, got none", path);
  return file;
}

std::vector<int32_t> encode_prompt(const Tokenizer& tokenizer, std::string_view text) {
  const std::vector<int32_t> added = tokenizer.encode("", true);
  const bool brings_it = !added.empty() && text.starts_with(tokenizer.token_bytes(added.front()));
  return tokenizer.encode(text, !brings_it);
}

}  // namespace awq
