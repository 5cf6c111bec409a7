// Calls of tools in a model's text.
#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace awq::server {

struct ToolCall {
  std::string name, arguments;  // JSON text
};

struct ParsedText {
  std::string content;  // what stands outside the calls
  std::vector<ToolCall> calls;
};

// Where a text that may hold calls must not be shown any more: from the first thing that may become one on.
// The length of what is certain to be content.
size_t content_before_calls(std::string_view text);
// Understood: <tool_call>{"name": ..., "arguments": {...}}</tool_call> (Hermes, Qwen), and a whole text that
// is such an object ("parameters" for "arguments", as Llama 3 writes it) or a list of them, after
// [TOOL_CALLS] or not (Mistral). What is not well formed stays content.
ParsedText parse_tool_calls(const std::string& text);

}  // namespace awq::server
