#include "text/chat.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "unit/formats/files.h"
#include "unit/tokenizer/fixtures.h"

namespace awq {
namespace {

using test::error_of;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr const char* kTurns =
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}";
// Content as a list of parts, and nothing else.
constexpr const char* kParts =
    "{% for m in messages %}[{{ m.role }}]{% for p in m.content %}{{ p.text }};{% endfor %}{% endfor %}";

ChatRenderer renderer(std::vector<ChatSource::Template> templates, std::string special_tokens = "{}") {
  return ChatRenderer({std::move(templates), std::move(special_tokens), "model"});
}
ChatRenderer renderer(const char* source) { return renderer({{"default", source, "template"}}); }

Conversation conversation(const char* messages, bool prompt = false) {
  Conversation c;
  c.messages = messages;
  c.add_generation_prompt = prompt;
  return c;
}

constexpr const char* kQuestion = R"([{"role": "user", "content": "Why?"}])";

TEST(Chat, TurnsAndTheAnswersBeginning) {
  const auto chat = renderer(kTurns);
  EXPECT_EQ(chat.render(conversation(kQuestion)).text, "<|user|>Why?<|end|>\n");
  EXPECT_EQ(chat.render(conversation(kQuestion, true)).text, "<|user|>Why?<|end|>\n<|assistant|>");
}

TEST(Chat, VariablesAndSpecialTokensReachTheTemplate) {
  const auto chat =
      renderer({{"default", "{{ bos_token }}{{ mode }}{{ documents is none }}{{ tools is none }}", "t"}},
               R"({"bos_token": "<s>", "mode": "from the tokens"})");
  Conversation c = conversation(kQuestion);
  EXPECT_EQ(chat.render(c).text, "<s>from the tokensTrueTrue");
  c.variables = R"({"mode": "asked for", "documents": []})";
  EXPECT_EQ(chat.render(c).text, "<s>asked forFalseTrue");
  c.variables = "[1]";
  EXPECT_THAT(error_of([&] { chat.render(c); }), AllOf(HasSubstr("variables"), HasSubstr("array")));
}

TEST(Chat, ContentIsFittedToWhatTheTemplateTakes) {
  constexpr const char* kTwoParts =
      R"([{"role": "user", "content": [{"type": "text", "text": "One"}, {"type": "text", "text": "two"}]}])";
  const auto text = renderer(kTurns), parts = renderer(kParts);
  EXPECT_FALSE(text.takes_parts());
  EXPECT_TRUE(parts.takes_parts());
  EXPECT_EQ(text.render(conversation(kTwoParts)).text, "<|user|>One\ntwo<|end|>\n");
  EXPECT_EQ(parts.render(conversation(kTwoParts)).text, "[user]One;two;");
  EXPECT_EQ(parts.render(conversation(kQuestion)).text, "[user]Why?;");
  Conversation literal = conversation(kTwoParts);
  literal.adapt = false;
  EXPECT_THAT(text.render(literal).text, HasSubstr("{'type': 'text', 'text': 'One'}"));
  EXPECT_THAT(
      error_of([&] {
        text.render(conversation(R"([{"role": "user", "content": [{"type": "image", "image": "x"}]}])"));
      }),
      AllOf(HasSubstr("unsupported"), HasSubstr("\"image\"")));
}

TEST(Chat, ArgumentsOfToolCallsBecomeObjects) {
  const auto chat = renderer(
      "{% for m in messages %}{% for c in m.tool_calls or [] %}{{ c.function.arguments is mapping }} "
      "{{ c.function.arguments }}{% endfor %}{% endfor %}");
  const auto call = [](const std::string& arguments) {
    return R"([{"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f", "arguments": )" +
           arguments + "}}]}]";
  };
  EXPECT_EQ(chat.render(conversation(call(R"("{\"x\": 1}")").c_str())).text, "True {'x': 1}");
  EXPECT_EQ(chat.render(conversation(call(R"("not JSON")").c_str())).text, "False not JSON");
  EXPECT_EQ(chat.render(conversation(call("[]").c_str())).text, "False []");
}

TEST(Chat, ToolUseTemplateIsTakenWhenThereAreTools) {
  const auto chat = renderer(
      {{"default", "plain", "t1"}, {"tool_use", "{{ tools | length }} tools", "t2"}, {"rag", "rag", "t3"}});
  Conversation c = conversation(kQuestion);
  EXPECT_EQ(chat.render(c).text, "plain");
  c.tools = R"([{"type": "function", "function": {"name": "f"}}])";
  EXPECT_EQ(chat.render(c).text, "1 tools");
  c.template_name = "rag";
  EXPECT_EQ(chat.render(c).text, "rag");
  c.template_name = "missing";
  EXPECT_THAT(error_of([&] { chat.render(c); }),
              AllOf(HasSubstr("'missing'"), HasSubstr("default, tool_use, rag"), HasSubstr("model")));
}

TEST(Chat, ContinuesTheLastMessage) {
  const auto chat = renderer(kTurns);
  Conversation c =
      conversation(R"([{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because "}])");
  c.continue_final_message = true;
  EXPECT_EQ(chat.render(c).text, "<|user|>Why?<|end|>\n<|assistant|>Because ");
  c.add_generation_prompt = true;
  EXPECT_THAT(error_of([&] { chat.render(c); }), HasSubstr("not possible together"));
  c.add_generation_prompt = false;
  c.messages = R"([{"role": "assistant", "content": null}])";
  EXPECT_THAT(error_of([&] { chat.render(c); }), HasSubstr("text in the last message"));
  const auto silent = renderer("{{ messages | length }}");
  c.messages = kQuestion;
  EXPECT_THAT(error_of([&] { silent.render(c); }), HasSubstr("does not appear"));
}

TEST(Chat, BadConversationsAreRefused) {
  const auto chat = renderer(kTurns);
  const std::pair<const char*, const char*> cases[] = {
      {"{", "expected JSON"},
      {R"({"role": "user"})", "expected a list, got object"},
      {R"(["hello"])", "messages[0]"},
      {R"([{"role": "user", "content": "a"}, {"content": "b"}])", "messages[1]"},
      {R"([{"role": 7}])", "messages[0]"},
  };
  for (const auto& [messages, expected] : cases)
    EXPECT_THAT(error_of([&] { chat.render(conversation(messages)); }), HasSubstr(expected)) << messages;
  EXPECT_THAT(error_of([] { renderer(std::vector<ChatSource::Template>{}); }),
              HasSubstr("expected a chat template"));
}

// <|end|> is a special token of this vocabulary, ";" is none.
TEST(Chat, TheTokenThatEndsAnAnswer) {
  const auto tokenizer = fixtures::tokenizer(fixtures::load("gpt2")["tokenizer"]);
  const std::optional<int32_t> end = tokenizer->id_of("<|end|>");
  ASSERT_TRUE(end && tokenizer->is_special(*end));
  EXPECT_EQ(renderer(kTurns).turn_end(*tokenizer), end);
  EXPECT_EQ(renderer(kParts).turn_end(*tokenizer), std::nullopt);
  EXPECT_EQ(renderer("{{ raise_exception('no') }}").turn_end(*tokenizer), std::nullopt);
  const auto ids = renderer(kTurns).encode(conversation(kQuestion), *tokenizer);
  EXPECT_THAT(ids, ::testing::Contains(*end));
  EXPECT_EQ(tokenizer->decode(ids, false), "<|user|>Why?<|end|>\n");
}

TEST(Chat, RecordsOfCalibration) {
  const auto chat = renderer(
      "{{ tools is none }}{% for m in messages %} {{ m.content }}{% endfor %}{{ add_generation_prompt }}");
  EXPECT_EQ(conversation_text(chat, R"({"messages": [{"role": "user", "content": "a"}]})"), "True aFalse");
  EXPECT_EQ(conversation_text(chat, R"({"messages": [{"role": "user", "content": "a"}], "tools": [{}]})"),
            "False aFalse");
}

}  // namespace
}  // namespace awq
