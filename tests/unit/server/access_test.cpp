// Keys, Host names, origins, calls of tools, metrics.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "server/auth.h"
#include "server/metrics.h"
#include "server/tool_calls.h"

namespace awq::server {
namespace {

TEST(ApiKeys, OneOfThemFits) {
  ApiKeys keys;
  EXPECT_FALSE(keys.required());
  EXPECT_EQ(keys.find("Bearer anything"), -1);
  keys.add("first-key");
  keys.add("second-key");
  EXPECT_TRUE(keys.required());
  EXPECT_EQ(keys.find("Bearer first-key"), 0);
  EXPECT_EQ(keys.find("bearer second-key"), 1);
  EXPECT_EQ(keys.find("Basic dXNlcjpzZWNvbmQta2V5"), 1);  // user:second-key
  EXPECT_EQ(keys.find("Basic OmZpcnN0LWtleQ=="), 0);      // :first-key
  for (const char* wrong : {"", "Bearer", "Bearer ", "first-key", "Bearer first-key ", "Bearer first-kez",
                            "Bearer first-ke", "Bearer first-key1", "Basic first-key", "Basic Zmlyc3Qta2V5",
                            "Basic ****", "Digest first-key", "Bearer  first-key", "Bearer\tfirst-key"})
    EXPECT_EQ(keys.find(wrong), -1) << wrong;
}

TEST(ApiKeys, FromAFile) {
  const auto file = std::filesystem::temp_directory_path() / ("awq_keys_" + std::to_string(::getpid()));
  const auto load = [&](const char* text) {
    std::ofstream(file) << text;
    ApiKeys keys;
    keys.add_file(file);
    return keys;
  };
  const ApiKeys keys = load("# people\nalice-12345\r\n\nbob-123456");
  EXPECT_EQ(keys.find("Bearer alice-12345"), 0);
  EXPECT_EQ(keys.find("Bearer bob-123456"), 1);
  EXPECT_THROW(load("# nothing\n\n"), Error);
  EXPECT_THROW(load("short\n"), Error);
  EXPECT_THROW(load("with a space\n"), Error);
  std::filesystem::remove(file);
  EXPECT_THROW(ApiKeys().add_file(file), Error);
}

TEST(Access, HostsAndOrigins) {
  AccessRules rules;
  EXPECT_TRUE(host_allowed(rules, "evil.example"));
  rules.hosts = {"localhost", "[::1]"};
  for (const char* good : {"localhost", "LocalHost:8000", "[::1]", "[::1]:80", ""})
    EXPECT_TRUE(host_allowed(rules, good)) << good;
  for (const char* bad : {"evil.example", "localhost.evil.example:80", "127.0.0.1", "[::2]"})
    EXPECT_FALSE(host_allowed(rules, bad)) << bad;

  rules.origins = {"https://app.example"};
  const auto allowed = [&](const char* origin) {
    HttpHead head;
    head.host = "localhost:8000";
    if (*origin) head.fields = {{"origin", origin}};
    return origin_allowed(rules, head);
  };
  for (const char* good : {"", "https://app.example", "http://localhost:8000"})
    EXPECT_TRUE(allowed(good)) << good;
  for (const char* bad : {"null", "https://app.example.evil", "http://app.example", "http://localhost:8001",
                          "http://localhost"})
    EXPECT_FALSE(allowed(bad)) << bad;
}

TEST(ToolCalls, FormsThatModelsWrite) {
  struct Case {
    const char *text, *content, *name, *arguments;
    size_t calls;
  };
  const Case cases[] = {
      {R"(<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>)", "", "f", R"({"a":1})", 1},
      {"Let me "
       "see.\n<tool_call>\n{\"name\":\"f\",\"arguments\":{}}\n</"
       "tool_call>\n<tool_call>{\"name\":\"g\",\"arguments\":{}}</tool_call>",
       "Let me see.", "f", "{}", 2},
      {R"(<tool_call>{"name": "f", "arguments": {}})", "", "f", "{}", 1},
      {R"( {"name": "f", "parameters": {"x": []}} )", "", "f", R"({"x":[]})", 1},
      {R"([TOOL_CALLS] [{"name": "f", "arguments": {}}, {"name": "g", "arguments": {}}])", "", "f", "{}", 2},
      {R"({"name": "f", "arguments": "{\"a\":1}"})", "", "f", R"({"a":1})", 1},
      {R"({"name": "f"})", R"({"name": "f"})", "", "", 0},
      {R"({"name": "f", "arguments": "a"})", R"({"name": "f", "arguments": "a"})", "", "", 0},
      {R"({"name": "", "arguments": {}})", R"({"name": "", "arguments": {}})", "", "", 0},
      {R"({"a": 1})", R"({"a": 1})", "", "", 0},
      {"<tool_call>not json</tool_call> x", "<tool_call>not json</tool_call> x", "", "", 0},
      {"plain", "plain", "", "", 0},
      {"", "", "", "", 0},
  };
  for (const Case& c : cases) {
    const ParsedText parsed = parse_tool_calls(c.text);
    EXPECT_EQ(parsed.content, c.content) << c.text;
    ASSERT_EQ(parsed.calls.size(), c.calls) << c.text;
    if (c.calls == 0) continue;
    EXPECT_EQ(parsed.calls[0].name, c.name) << c.text;
    EXPECT_EQ(parsed.calls[0].arguments, c.arguments) << c.text;
  }
  EXPECT_EQ(parse_tool_calls(std::string(100'000, '[')).calls.size(), 0u);
}

TEST(ToolCalls, WhatMayBecomeOneIsHeldBack) {
  EXPECT_EQ(content_before_calls("hello"), 5u);
  EXPECT_EQ(content_before_calls("hello <tool_c"), 6u);
  EXPECT_EQ(content_before_calls("hello <tool_call>{"), 6u);
  EXPECT_EQ(content_before_calls("a < b"), 5u);
  EXPECT_EQ(content_before_calls(" {\"name\""), 0u);
  EXPECT_EQ(content_before_calls("  "), 0u);
}

TEST(Metrics, HistogramsAreCumulative) {
  Histogram h("x_seconds", "What.", {0.1, 1});
  for (const double v : {0.05, 0.1, 0.5, 7.0}) h.observe(v);
  std::string out;
  h.write(out);
  EXPECT_EQ(out,
            "# HELP x_seconds What.\n# TYPE x_seconds histogram\nx_seconds_bucket{le=\"0.1\"} "
            "2\nx_seconds_bucket{le=\"1\"} 3\n"
            "x_seconds_bucket{le=\"+Inf\"} 4\nx_seconds_sum 7.65\nx_seconds_count 4\n");
}

}  // namespace
}  // namespace awq::server
