// Renders chat templates for the comparison with jinja2 (tests/full/templates.py): one JSON object per line
// of standard input, {"template": ..., "context": {...}, "now": seconds}, gives one line {"text": ...} or
// {"error": ...}.
#include <iostream>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "tokenizer/chat_template.h"

int main() {
  std::ios::sync_with_stdio(false);
  for (std::string line; std::getline(std::cin, line);) {
    const auto item = nlohmann::ordered_json::parse(line);
    nlohmann::ordered_json result;
    try {
      awq::TemplateLimits limits;
      limits.now_seconds = item.value("now", int64_t{0});
      const auto parsed = awq::ChatTemplate::parse(item["template"].get<std::string>(), "template");
      const auto rendered = parsed->render_chat(item["context"].dump(), limits);
      result["text"] = rendered.text;
      result["generation"] = rendered.generation;
    } catch (const awq::Error& error) {
      result["error"] = error.what();
      result["code"] = awq::code_name(error.code());
    }
    std::cout << result.dump() << '\n';
  }
}
