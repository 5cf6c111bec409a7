#include "tokenizer/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/error.h"

namespace awq {
namespace {

using Json = nlohmann::ordered_json;
using ::testing::HasSubstr;

const std::filesystem::path kFolder = std::filesystem::path(AWQ_TEST_DATA) / "chat_templates";

std::string read(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

std::string render(const std::string& source, const std::string& context = "{}",
                   const TemplateLimits& limits = {}) {
  return ChatTemplate::parse(source, "t")->render(context, limits);
}

// The error's message; "" when there is none.
std::string refusal(const std::string& source, const std::string& context = "{}",
                    const TemplateLimits& limits = {}) {
  try {
    render(source, context, limits);
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

// tests/oracle/record_templates.py recorded what jinja2 makes of these in transformers' environment.
TEST(ChatTemplate, EqualsJinja) {
  const Json recorded = Json::parse(read(kFolder / "expected.json"));
  const Json conversations = Json::parse(read(kFolder / "conversations.json"));
  TemplateLimits limits;
  limits.now_seconds = recorded["now"].get<int64_t>();
  int compared = 0;
  for (const auto& [name, outcomes] : recorded["expected"].items()) {
    const auto parsed = ChatTemplate::parse(read(kFolder / name), name);
    for (size_t i = 0; i < conversations.size(); ++i, ++compared) {
      SCOPED_TRACE(name + " with conversation " + std::to_string(i));
      if (outcomes[i].contains("error")) {
        EXPECT_THROW(parsed->render_chat(conversations[i].dump(), limits), Error) << outcomes[i]["error"];
        continue;
      }
      const RenderedChat chat = parsed->render_chat(conversations[i].dump(), limits);
      EXPECT_EQ(chat.text, outcomes[i]["text"].get<std::string>());
      EXPECT_EQ(Json(chat.generation), outcomes[i]["generation"]);
    }
  }
  EXPECT_GE(compared, 17 * 6);
}

TEST(ChatTemplate, ErrorsNameTemplateLineAndWhatWasFound) {
  struct Case {
    const char* source;
    Code code;
    const char* message;
  };
  const Case cases[] = {
      {"a\n{% include 'x' %}", Code::kUnsupported, "t: line 2: the tag 'include' is not supported"},
      {"{% import 'os' as os %}", Code::kUnsupported, "t: line 1: the tag 'import' is not supported"},
      {"\n\n{{ x | shell }}", Code::kUnsupported, "t: line 3: there is no filter 'shell'"},
      {"{{ x is dangerous }}", Code::kUnsupported, "t: line 1: there is no test 'dangerous'"},
      {"{% if x %}", Code::kBadFile, "t: line 1: expected 'endif', got the end of the template"},
      {"{{ x", Code::kBadFile, "t: line 1: a tag is not closed by }}"},
      {"{{ (x] }}", Code::kBadFile, "t: line 1: unexpected ']', expected ')'"},
      {"{{ 'x }}", Code::kBadFile, "t: line 1: a string is not closed"},
      {"{# x", Code::kBadFile, "t: line 1: a comment {# is not closed by #}"},
      {"{% raw %}x", Code::kBadFile, "t: line 1: {% raw %} is not closed by {% endraw %}"},
      {"{% endfor %}", Code::kBadFile, "t: line 1: 'endfor' closes nothing that is open here"},
      {"{% break %}", Code::kBadFile, "t: line 1: 'break' stands outside of a loop"},
      {"{% set true = 1 %}", Code::kBadFile, "t: line 1: can't assign to 'true'"},
      {"{{ 99999999999999999999 }}", Code::kBadFile, "t: line 1: expected an integer of 64 bits"},
      {"{{ x \x01 }}", Code::kBadFile, "t: line 1: unexpected character"},
      {"{{ 'a\xff' }}", Code::kBadFile, "t: expected a template in UTF-8"},
      {"x\n{{ raise_exception('No ' ~ 1) }}", Code::kBadArgument, "t: line 2: the template says: No 1"},
      {"{{ a.b.c }}", Code::kBadArgument, "t: line 1: 'a' is undefined"},
      {"{{ 'a' + 1 }}", Code::kBadArgument, "t: line 1: unsupported operand type(s) for +: 'str' and 'int'"},
      {"{{ [].append(1) }}", Code::kBadArgument, "access to attribute 'append' of 'list' object is unsafe."},
      {"{% for x in 1 %}{% endfor %}", Code::kBadArgument, "'int' object is not iterable"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.source);
    try {
      render(c.source);
      FAIL() << "no error";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), c.code);
      EXPECT_THAT(error.what(), HasSubstr(c.message));
    }
  }
  EXPECT_THAT(refusal("{{ x }}", "[1]"), HasSubstr("expected the conversation as a JSON object, got 'list'"));
  EXPECT_THAT(refusal("{{ x }}", "{\"x\":"), HasSubstr("invalid JSON at byte"));
  EXPECT_THAT(refusal("x", "{\"a\":" + std::string(100, '[') + std::string(100, ']') + "}"),
              HasSubstr("nested at most 64"));
}

// Filters that do not exist are an error where they are reached, when they stand in a branch: as in jinja2.
TEST(ChatTemplate, UnknownFilterInBranchThatIsNotTaken) {
  EXPECT_EQ(render("{% if false %}{{ x | shell }}{% endif %}ok"), "ok");
  EXPECT_THAT(refusal("{% if true %}{{ 'x' | shell }}{% endif %}"), HasSubstr("there is no filter 'shell'"));
}

std::string repeated(const std::string& text, int times) {
  std::string out;
  for (int i = 0; i < times; ++i) out += text;
  return out;
}

std::vector<std::string> hostile_templates() {
  std::vector<std::string> all = {
      // Ways to Python's objects.
      "{{ ''.__class__ }}",
      "{{ ''['__class__'] }}",
      "{{ ''.__class__.__mro__[1].__subclasses__() }}",
      "{{ [].__class__.__base__ }}",
      "{{ {}.__class__ }}",
      "{{ (1).__class__.__bases__ }}",
      "{{ x.__init__.__globals__ }}",
      "{{ ''|attr('__class__') }}",
      "{{ ''|attr('__cla' ~ 'ss__') }}",
      "{{ [''] | map(attribute='__class__') | list }}",
      "{{ [''] | selectattr('__class__') | list }}",
      "{{ [''] | sort(attribute='__class__') }}",
      "{{ '{0.__class__}'.format(1) }}",
      "{{ '{a.__init__.__globals__}'.format(a=namespace()) }}",
      "{{ '{x[__class__]}'.format_map({'x': 'y'}) }}",
      "{{ range.__self__ }}",
      "{{ raise_exception.__globals__ }}",
      "{% macro m() %}{% endmacro %}{{ m.__call__ }}",
      "{{ namespace.__init__ }}",
      "{% for i in [1] %}{{ loop.__class__ }}{% endfor %}",
      "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
      "{{ lipsum.__globals__ }}",
      "{{ self.__init__ }}",
      "{{ config.items() }}",
      "{{ request.application }}",
      "{% set ns = namespace() %}{% set ns.__class__ = 1 %}{{ ns.__class__() }}",
      "{{ 'x'.encode('utf-8') }}",
      "{{ [1].append(2) }}",
      "{{ {}.update({'a': 1}) }}",
      "{{ {'a': 1}.pop('a') }}",
      // Endless work.
      "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
      "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}",
      "{% macro m(x) %}{{ m(x + 1) ~ m(x + 2) }}{% endmacro %}{{ m(0) }}",
      "{% macro m(x) %}{% if x %}{{ m(x - 1) }}{{ m(x - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
      "{% macro m(x=m()) %}{% endmacro %}{{ m() }}",
      "{% for a in [[1]] recursive %}{{ loop([a]) }}{% endfor %}",
      "{% macro m() %}{% call m() %}{{ caller() }}{% endcall %}{% endmacro %}{{ m() }}",
      repeated("{% for i in range(99999) %}", 3) + "x" + repeated("{% endfor %}", 3),
      repeated("{% for i in range(99999) %}", 3) + repeated("{% endfor %}", 3),
      "{% for i in range(1000000000) %}{% endfor %}",
      "{{ range(0, 9223372036854775807, 1) | list }}",
      "{{ range(-9223372036854775807, 9223372036854775807) | sum }}",
      // More memory than there is.
      "{{ 'x' * 9999999999 }}",
      "{{ 'x' * 9223372036854775807 }}",
      "{{ [1] * 9999999999 }}",
      "{{ ([0] * 1000000) * 1000000 }}",
      "{{ 'x'.ljust(9999999999) }}",
      "{{ 'x'.center(9999999999, '😀') }}",
      "{{ 'x'.zfill(9999999999) }}",
      "{{ '\t'.expandtabs(9999999999) }}",
      "{{ '%9999999999d' % 1 }}",
      "{{ '%*d' % (9999999999, 1) }}",
      "{{ '%.9999999999f' % 1.5 }}",
      "{{ '{:>9999999999}'.format(1) }}",
      "{{ '{:.9999999999f}'.format(1.5) }}",
      "{{ 'x' | center(9999999999) }}",
      "{{ 'a\nb' | indent(9999999999) }}",
      "{{ ('a\n' * 100000) | indent('x' * 100000) }}",
      "{{ ('x' * 100000).replace('x', 'y' * 100000) }}",
      "{{ ('y' * 100000).join(('x' * 100000) | list) }}",
      "{{ [1] | batch(9999999999, 0) | list }}",
      "{{ [1] | slice(9999999999) | list }}",
      "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor "
      "%}",
      "{% set ns = namespace(l=[1]) %}{% for i in range(99) %}{% set ns.l = ns.l + ns.l %}{% endfor %}",
      "{% set ns = namespace(l=[]) %}{% for i in range(99999) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l "
      "}}",
      "{% set ns = namespace() %}{% set ns.me = ns %}{{ ns | tojson }}",
      "{% for i in range(99999) %}{{ 'x' * 10000 }}{% endfor %}",
      "{{ {'a': 'x' * 1000000} | tojson(indent='y' * 200000000) }}",
      "{% set ns = namespace(l=['x' * 99999]) %}{% for i in range(9) %}{% set ns.l = [ns.l, ns.l, ns.l, "
      "ns.l, ns.l, ns.l, ns.l, ns.l] "
      "%}{% endfor %}{{ ns.l }}",
      "{{ 2 ** 64 }}",
      "{{ 9223372036854775807 + 1 }}",
      "{{ 10 ** 10 ** 10 }}",
      "{{ strftime_now('%c' * 100000) }}",
      // Deeper than the stack.
      "{{ " + repeated("(", 5000) + "1" + repeated(")", 5000) + " }}",
      "{{ " + repeated("[", 5000) + repeated("]", 5000) + " }}",
      "{{ " + repeated("{1:", 5000) + "1" + repeated("}", 5000) + " }}",
      "{{ " + repeated("-", 50000) + "1 }}",
      "{{ " + repeated("not ", 50000) + "1 }}",
      "{{ 1" + repeated(" + 1", 50000) + " }}",
      "{{ x" + repeated(".y", 50000) + " }}",
      "{{ x" + repeated("|trim", 50000) + " }}",
      "{{ x" + repeated("()", 50000) + " }}",
      "{{ 1" + repeated(" if 1 else 1", 50000) + " }}",
      repeated("{% if 1 %}", 5000) + repeated("{% endif %}", 5000),
      repeated("{% for i in [1] %}", 5000) + repeated("{% endfor %}", 5000),
      repeated("{% set x %}", 5000) + repeated("{% endset %}", 5000),
      "{% set " + repeated("(", 5000) + "x" + repeated(")", 5000) + " = 1 %}",
      std::string((1 << 20) + 1, 'x'),
  };
  return all;
}

TEST(ChatTemplate, HostileTemplatesEndWithOneClearError) {
  const auto hostile = hostile_templates();
  EXPECT_GE(hostile.size(), 50U);
  for (const std::string& source : hostile) {
    SCOPED_TRACE(source.substr(0, 100));
    const auto begin = std::chrono::steady_clock::now();
    const std::string message = refusal(source);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    EXPECT_THAT(message, ::testing::StartsWith("t: "));
    EXPECT_THAT(message, ::testing::Not(HasSubstr("\n")));
    EXPECT_LT(message.size(), 300U);
    EXPECT_LT(took.count(), 20.0);  // about a second; the bound is for sanitizers on a busy machine
  }
}

TEST(ChatTemplate, EachBudgetIsKept) {
  TemplateLimits limits;
  limits.steps = 1000;
  EXPECT_THAT(refusal("{% for i in range(99999) %}{% endfor %}", "{}", limits),
              HasSubstr("budget of 1000 steps"));
  limits = {};
  limits.output_bytes = 100;
  EXPECT_EQ(render("{{ 'x' * 100 }}", "{}", limits), std::string(100, 'x'));
  EXPECT_THAT(refusal("{{ 'x' * 101 }}", "{}", limits), HasSubstr("budget of 100 bytes of output"));
  limits = {};
  limits.memory_bytes = 100'000;
  EXPECT_THAT(refusal("{{ 'x' * 100000 }}", "{}", limits), HasSubstr("budget of 100000 bytes of memory"));
  limits = {};
  limits.depth = 50;
  EXPECT_THAT(refusal("{% macro m(n) %}{{ m(n - 1) if n }}{% endmacro %}{{ m(40) }}", "{}", limits),
              HasSubstr("budget of 50 nested"));
  // What dies gives its memory back: a loop may make more in total than may live at once.
  limits = {};
  limits.memory_bytes = 100'000;
  EXPECT_EQ(render("{% for i in range(1000) %}{% set x = 'y' * 9000 %}{% endfor %}ok", "{}", limits), "ok");
}

// Twice the conversation takes at most about twice the steps: rendering is linear.
TEST(ChatTemplate, StepsAreLinearInTheConversation) {
  const auto parsed = ChatTemplate::parse(read(kFolder / "04_thinking.jinja"), "t");
  const auto steps_for = [&](int messages) {
    Json context{{"add_generation_prompt", true}, {"messages", Json::array()}};
    for (int i = 0; i < messages; ++i)
      context["messages"].push_back(
          {{"role", i % 2 ? "assistant" : "user"}, {"content", std::string(2000, 'x')}});
    const std::string json = context.dump();
    int64_t low = 0, high = TemplateLimits().steps;
    while (low + 1 < high) {  // the smallest budget that is enough
      TemplateLimits limits;
      limits.steps = (low + high) / 2;
      try {
        parsed->render(json, limits);
        high = limits.steps;
      } catch (const Error&) {
        low = limits.steps;
      }
    }
    return high;
  };
  const int64_t once = steps_for(200), twice = steps_for(400);
  EXPECT_LT(static_cast<double>(twice), 2.05 * static_cast<double>(once));
}

TEST(ChatTemplate, MentionsTellsWhichVariablesAreRead) {
  const auto parsed =
      ChatTemplate::parse("{% if tools %}{{ tools[0].name }}{% endif %}{% set x = 1 %}{{ messages }}", "t");
  EXPECT_TRUE(parsed->mentions("tools"));
  EXPECT_TRUE(parsed->mentions("messages"));
  EXPECT_FALSE(parsed->mentions("x"));
  EXPECT_FALSE(parsed->mentions("name"));
  EXPECT_FALSE(parsed->mentions("enable_thinking"));
}

TEST(ChatTemplate, GenerationRangesAreBytesOfTheText) {
  const auto chat =
      ChatTemplate::parse("é{% generation %}ü{% endgeneration %}x{% generation %}{% endgeneration %}", "t")
          ->render_chat("{}");
  EXPECT_EQ(chat.text, "éüx");
  EXPECT_EQ(chat.generation, (std::vector<std::pair<size_t, size_t>>{{2, 4}, {5, 5}}));
}

TEST(ChatTemplate, IntegersBeyond64BitsAreShownExactly) {
  EXPECT_EQ(render("{{ x }} {{ x | tojson }} {{ x is integer }}", "{\"x\": 123456789012345678901234567890}"),
            "123456789012345678901234567890 123456789012345678901234567890 True");
  EXPECT_THAT(refusal("{{ x + 1 }}", "{\"x\": 18446744073709551615}"), HasSubstr("64 bits"));
}

}  // namespace
}  // namespace awq
