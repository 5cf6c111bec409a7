// Private to eval/: text as the tasks' definitions treat it, and their files, one JSON object a line.
#pragma once
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace awq {

// Python's str.strip() and its halves: white space as Unicode and ASCII have it. Bytes that are not UTF-8 stay.
std::string_view stripped_left(std::string_view text);
std::string_view stripped_right(std::string_view text);
inline std::string_view stripped(std::string_view text) { return stripped_left(stripped_right(text)); }
int64_t characters(std::string_view text);  // code points of UTF-8

// One line of a task's file. Errors name file, line, key, what was expected and what was found.
class TaskLine {
 public:
  TaskLine(nlohmann::ordered_json object, std::string where) : object_(std::move(object)), where_(std::move(where)) {}
  const std::string& where() const { return where_; }
  bool has(const char* key) const { return object_.contains(key); }
  // The first of `keys` that is there: a string that is not blank unless `may_be_blank`.
  std::string text(std::initializer_list<const char*> keys, bool may_be_blank = false) const;
  // A list of at least two strings, or the "text" list of {"text": [...], "label": [...]}.
  std::vector<std::string> choices(const char* key) const;
  std::vector<std::string> labels() const;  // of the choices: "labels", or the "label" list in "choices"; may be empty
  // 0 <= index < choices, as a number or as a string of one.
  int64_t index(std::initializer_list<const char*> keys, int64_t choices, int64_t first = 0) const;
  // "answerKey" found among labels(), else an "answer" index.
  int64_t answer(int64_t choices) const;
  [[noreturn]] void refuse(const std::string& expected_and_found) const;
  const nlohmann::ordered_json& json() const { return object_; }

 private:
  const nlohmann::ordered_json* find(std::initializer_list<const char*> keys) const;
  nlohmann::ordered_json object_;
  std::string where_;
};

struct TaskFile {
  std::string name, sha256;
  std::vector<TaskLine> lines;
};
// kNotFound, kBadFile.
TaskFile read_task_file(const std::string& path);

// A text's tokens as lm-evaluation-harness asks for them: with what the tokenizer adds in front, unless the text brings it.
std::vector<int32_t> encode_prompt(const Tokenizer& tokenizer, std::string_view text);

}  // namespace awq
