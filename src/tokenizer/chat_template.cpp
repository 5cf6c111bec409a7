#include "tokenizer/chat_template.h"

#include <algorithm>

#include "base/error.h"
#include "tokenizer/template/ast.h"
#include "tokenizer/template/eval.h"
#include "tokenizer/template/lexer.h"
#include "tokenizer/unicode.h"

namespace awq {

namespace {
constexpr size_t kMaxSource = size_t{1} << 20;  // the longest templates known have 30 kB
}

ChatTemplate::ChatTemplate(std::unique_ptr<const chat_template::Program> program)
    : program_(std::move(program)) {}
ChatTemplate::~ChatTemplate() = default;

std::shared_ptr<const ChatTemplate> ChatTemplate::parse(std::string_view source, const std::string& where) {
  if (source.size() > kMaxSource)
    fail(Code::kBadFile, "{}: expected a template of at most {} bytes, got {}", where, kMaxSource,
         source.size());
  if (!is_valid_utf8(source))
    fail(Code::kBadFile, "{}: expected a template in UTF-8, got other bytes", where);
  try {
    return std::shared_ptr<const ChatTemplate>(new ChatTemplate(chat_template::parse_program(source, where)));
  } catch (const chat_template::SyntaxFailure& failure) {
    fail(failure.unsupported ? Code::kUnsupported : Code::kBadFile, "{}: line {}: {}", where, failure.line,
         failure.message);
  }
}

RenderedChat ChatTemplate::render_chat(std::string_view context_json, const TemplateLimits& limits) const {
  chat_template::Renderer renderer(*program_, limits);
  try {
    return renderer.run(context_json);
  } catch (const chat_template::Failure& failure) {
    fail(Code::kBadArgument, "{}: line {}: {}", program_->where, renderer.line(), failure.message);
  }
}

std::string ChatTemplate::render(std::string_view context_json, const TemplateLimits& limits) const {
  return render_chat(context_json, limits).text;
}

bool ChatTemplate::mentions(std::string_view variable) const {
  return std::binary_search(program_->reads.begin(), program_->reads.end(), variable);
}

}  // namespace awq
