// Chat templates: the subset of Jinja2 that models' templates are written in, interpreted in a sandbox. The
// language, its whitespace rules and its undefined values are those of transformers' environment
// (ImmutableSandboxedEnvironment with trim_blocks, lstrip_blocks, loop controls, {% generation %}, its own
// tojson, raise_exception, strftime_now).
//
// Templates come from strangers. A template reaches nothing but the values it is given: no attribute of any
// host object, no file, no clock but strftime_now. Parsing and rendering are functions of bytes whose work is
// bounded by TemplateLimits; each failure is one Error that names template and line. Thread-safe after
// construction.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace awq {

// What one rendering may use. A real conversation needs about a hundred steps per message.
struct TemplateLimits {
  int64_t steps = 10'000'000;        // nodes evaluated, items visited, and one for each 64 bytes copied
  int depth = 600;                   // nested evaluations: expressions, blocks and macro calls together
  int64_t output_bytes = 64 << 20;   // length of the result
  int64_t memory_bytes = 256 << 20;  // values alive at one time, the context's included
  int64_t now_seconds = 0;           // what strftime_now shows, seconds since 1970 (local time); 0: the clock
};

struct RenderedChat {
  std::string text;
  // Byte ranges [begin, end) of `text` that stand inside {% generation %}: what the assistant says.
  std::vector<std::pair<size_t, size_t>> generation;
};

namespace chat_template {
struct Program;
}

class ChatTemplate {
 public:
  // `where` names the file in errors. kBadFile: the template is not well formed, longer than 1 MiB or nested
  // too deeply; kUnsupported: a tag, filter or test that is not part of the subset.
  static std::shared_ptr<const ChatTemplate> parse(std::string_view source, const std::string& where);
  ~ChatTemplate();

  // context_json: one JSON object whose members become the template's variables, e.g. {"messages": [...],
  // "tools": null, "add_generation_prompt": true, "bos_token": "<s>"}. A variable that is left out is
  // undefined to the template, null is None. kBadArgument: not such an object, raise_exception("...") was
  // called, an operation does not fit the values, or a limit was reached.
  std::string render(std::string_view context_json, const TemplateLimits& limits = {}) const;
  RenderedChat render_chat(std::string_view context_json, const TemplateLimits& limits = {}) const;

  // Whether the template reads this variable anywhere ("tools", "enable_thinking", ...).
  bool mentions(std::string_view variable) const;

 private:
  explicit ChatTemplate(std::unique_ptr<const chat_template::Program> program);
  std::unique_ptr<const chat_template::Program> program_;
};

}  // namespace awq
