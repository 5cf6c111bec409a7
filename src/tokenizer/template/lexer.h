// Splits a template into text and the tokens inside its tags, with jinja2's rules for white space (lexer.py;
// trim_blocks and lstrip_blocks are on).
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace awq::chat_template {

struct Token {
  enum class Kind : uint8_t {
    kText,
    kOutputBegin,
    kOutputEnd,
    kBlockBegin,
    kBlockEnd,
    kName,
    kString,
    kInteger,
    kFloat,
    kOperator,
    kEnd
  } kind = Kind::kEnd;
  int line = 1;
  std::string text;  // strings: the value; operators: as written
};

// The error of a malformed template: line and what is wrong.
struct SyntaxFailure {
  int line;
  std::string message;
  bool unsupported = false;
};

std::vector<Token> tokenize(std::string_view source);

}  // namespace awq::chat_template
