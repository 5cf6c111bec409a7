#include "server/tool_calls.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "server/openai_request.h"
#include "text/json_schema.h"

namespace awq::server {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kOpen = "<tool_call>", kClose = "</tool_call>", kList = "[TOOL_CALLS]";
constexpr std::string_view kSpace = " \t\r\n";

std::string_view trim(std::string_view s) {
  const size_t begin = s.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return {};
  return s.substr(begin, s.find_last_not_of(kSpace) - begin + 1);
}

std::optional<ToolCall> call_from(const Json& json) {
  if (!json.is_object() || !json.contains("name") || !json["name"].is_string()) return std::nullopt;
  const char* key = json.contains("arguments") ? "arguments" : "parameters";
  if (!json.contains(key)) return std::nullopt;
  ToolCall call{json["name"], {}};
  const Json& arguments = json[key];
  if (arguments.is_object())
    call.arguments = arguments.dump();
  else if (arguments.is_string())
    call.arguments = arguments.get<std::string>();
  else
    return std::nullopt;
  // Text that stands in a string may be anything.
  if (call.name.empty() || json_depth(call.arguments) > kMaxJsonDepth || !Json::accept(call.arguments)) return std::nullopt;
  return call;
}

// All or nothing: a call that is not well formed makes the text content.
bool calls_from(std::string_view text, std::vector<ToolCall>& calls) {
  if (json_depth(text) > kMaxJsonDepth) return false;
  const Json json = Json::parse(text, nullptr, false);
  if (json.is_discarded()) return false;
  const Json list = json.is_array() ? json : Json::array({json});
  std::vector<ToolCall> found;
  for (const Json& item : list) {
    const auto call = call_from(item);
    if (!call) return false;
    found.push_back(*call);
  }
  calls.insert(calls.end(), found.begin(), found.end());
  return !found.empty();
}

}  // namespace

size_t content_before_calls(std::string_view text) {
  const size_t first = text.find_first_not_of(kSpace);
  if (first == std::string_view::npos) return 0;
  if (text[first] == '{' || text[first] == '[') return 0;
  if (const size_t at = text.find(kOpen); at != std::string_view::npos) return at;
  for (size_t n = std::min(kOpen.size() - 1, text.size()); n > 0; --n)
    if (text.ends_with(kOpen.substr(0, n))) return text.size() - n;
  return text.size();
}

ParsedText parse_tool_calls(const std::string& text) {
  ParsedText out;
  std::string_view whole = trim(text);
  if (whole.starts_with(kList)) whole = trim(whole.substr(kList.size()));
  if ((whole.starts_with('{') || whole.starts_with('[')) && calls_from(whole, out.calls)) return out;
  size_t at = 0;
  while (true) {
    const size_t open = text.find(kOpen, at);
    if (open == std::string::npos) break;
    const size_t inside = open + kOpen.size(), close = std::min(text.find(kClose, inside), text.size());
    const size_t after = std::min(close + kClose.size(), text.size());
    out.content += text.substr(at, open - at);
    if (!calls_from(trim(std::string_view(text).substr(inside, close - inside)), out.calls))
      out.content += text.substr(open, after - open);
    at = after;
  }
  out.content += text.substr(at);
  if (!out.calls.empty()) out.content = trim(out.content);
  return out;
}

}  // namespace awq::server
