// Chat templates: whatever the source, parsing and rendering end within their budgets, and the marked ranges
// lie in the text.
#include <cstring>
#include <random>

#include "target.h"
#include "tokenizer/chat_template.h"

using namespace awq;
using fuzz::require;

namespace {

constexpr std::string_view kContext =
    R"({"messages":[{"role":"user","content":"Hi <b>\u00e9"},{"role":"assistant","content":[{"type":"text","text":"yes"}],"tool_calls":)"
    R"([{"function":{"name":"f","arguments":{"x":1.5,"y":null}}}]}],"tools":null,"add_generation_prompt":true,"bos_token":"<s>","n":3})";

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::shared_ptr<const ChatTemplate> source;
  if (!fuzz::accepts([&] { source = ChatTemplate::parse(fuzz::text_of(data, size), "file"); })) return 0;
  TemplateLimits limits;
  limits.steps = 500;
  limits.output_bytes = 1 << 16;
  limits.memory_bytes = 1 << 20;
  limits.now_seconds = 1'700'000'000;
  RenderedChat chat;
  fuzz::accepts([&] { chat = source->render_chat(kContext, limits); });
  require(static_cast<int64_t>(chat.text.size()) <= limits.output_bytes);
  for (const auto& [begin, end] : chat.generation) require(begin <= end && end <= chat.text.size());
  return 0;
}

namespace {

constexpr std::string_view kPieces[] = {"{{ x }}",
                                        "{% if x %}",
                                        "{% elif y %}",
                                        "{% else %}",
                                        "{% endif %}",
                                        "{% for m in messages %}",
                                        "{% endfor %}",
                                        "{% set x = 1 %}",
                                        "{% set ns = namespace(a=1) %}",
                                        "{% set ns.a = 2 %}",
                                        "{% macro f(a, b=2) %}",
                                        "{% endmacro %}",
                                        "{{ f(1, b=n) }}",
                                        "{%- ",
                                        " -%}",
                                        "{# c #}",
                                        "{% generation %}",
                                        "{% endgeneration %}",
                                        "{% break %}",
                                        "{% continue %}",
                                        "{% raw %}",
                                        "{% endraw %}",
                                        "messages[0]",
                                        "['role']",
                                        ".content",
                                        "[1:]",
                                        "[::-1]",
                                        "|tojson",
                                        "|trim",
                                        "|length",
                                        "|join(',')",
                                        "|map(attribute='role')|list",
                                        "|selectattr('a')",
                                        "|default('x', true)",
                                        "|replace('a','b')",
                                        "|indent(2)",
                                        "|upper",
                                        "|items",
                                        "loop.index0",
                                        "loop.last",
                                        "loop.previtem",
                                        " is defined",
                                        " is not none",
                                        " is string",
                                        " in ",
                                        " not in ",
                                        " ~ ",
                                        " ** ",
                                        " // ",
                                        " % ",
                                        " and ",
                                        " or ",
                                        "not ",
                                        " if x else ",
                                        "range(3)",
                                        "range(10**9)",
                                        "'a' * 9999",
                                        ".split(',')",
                                        ".strip()",
                                        ".items()",
                                        ".get('x')",
                                        ".format(1)",
                                        "raise_exception('e')",
                                        "strftime_now('%Y')",
                                        "dict(a=1)",
                                        "[1, 'a', none]",
                                        "{'a': 1}",
                                        "(1,)",
                                        "1e308",
                                        "9223372036854775807",
                                        "\"\\u00e9\"",
                                        "{% for a, b in x recursive %}",
                                        "loop(x)",
                                        "{% call f() %}",
                                        "{% filter upper %}"};

size_t insert(uint8_t* data, size_t size, size_t max_size, size_t at, std::string_view piece) {
  if (size + piece.size() > max_size) return size;
  std::memmove(data + at + piece.size(), data + at, size - at);
  std::memcpy(data + at, piece.data(), piece.size());
  return size + piece.size();
}

}  // namespace

size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  std::minstd_rand rng(seed);
  const size_t at = rng() % (size + 1);
  switch (rng() % 4) {
    case 0:
      return insert(data, size, max_size, at, kPieces[rng() % std::size(kPieces)]);
    case 1: {  // a stretch once more
      const size_t length = std::min<size_t>(size - at, 1 + rng() % 64);
      const std::string piece(fuzz::text_of(data + at, length));
      return insert(data, size, max_size, rng() % (size + 1), piece);
    }
    default:
      return LLVMFuzzerMutate(data, size, max_size);
  }
}
