// JSON and JSON Schema as grammars: what they let through, and what is generated under them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <regex>

#include "base/error.h"
#include "runtime/sampling.h"
#include "text/grammar_matcher.h"
#include "text/json_schema.h"

namespace awq {
namespace {

using Json = nlohmann::ordered_json;

std::shared_ptr<const Tokenizer> tokenizer() {
  static const auto t = [] {
    std::ifstream in(std::string(AWQ_TEST_DATA) + "/tokenizer/smollm.json");
    return Tokenizer::from_json(Json::parse(in)["tokenizer"].dump(), "smollm");
  }();
  return t;
}

std::shared_ptr<const TokenTrie> trie() {
  static const auto t = std::make_shared<const TokenTrie>(tokenizer());
  return t;
}

bool accepts(const std::shared_ptr<const Grammar>& grammar, std::string_view text) {
  GrammarMatcher m(grammar);
  return m.advance(text) && m.complete();
}

TEST(TokenTrie, HoldsEveryTokenOnceUnderItsBytes) {
  const auto& nodes = trie()->nodes();
  std::vector<int> seen(static_cast<size_t>(trie()->vocab_size()));
  std::string path;
  for (size_t i = 0; i < nodes.size(); ++i) {
    path.resize(nodes[i].depth - 1u);
    path += static_cast<char>(nodes[i].byte);
    ASSERT_GT(nodes[i].after, static_cast<int32_t>(i));
    for (int32_t id = nodes[i].first_token; id >= 0; id = trie()->next_token(id)) {
      EXPECT_EQ(tokenizer()->token_bytes(id), path);
      ++seen[static_cast<size_t>(id)];
    }
  }
  for (int32_t id = 0; id < trie()->vocab_size(); ++id)
    EXPECT_EQ(seen[static_cast<size_t>(id)],
              tokenizer()->is_special(id) || tokenizer()->token_bytes(id).empty() ? 0 : 1)
        << id;
}

TEST(JsonGrammar, AnyObject) {
  const auto g = json_object_grammar();
  for (const char* text :
       {"{}", R"({"a":1})", R"({"a": [1, -0.5e-3, true, null, {"b": {}}], "é\n\u00e9": "\"" })",
        "{\n  \"a\": []\n}", R"({"":""})"})
    EXPECT_TRUE(accepts(g, text)) << text;
  for (const char* text : {"", "[]", "1", "{", "{a:1}", "{\"a\":01}", "{\"a\":1,}", "{\"a\":\"\n\"}",
                           "{\"a\":\"\\ud800\"}", "{\"a\":\"\xff\"}", "{\"a\":\"\xed\xa0\x80\"}",
                           "{\"a\":.5}", "{\"a\":1}}", "{\"a\":nul}", "{\"a\" 1}", "{\"a\":1} "})
    EXPECT_FALSE(accepts(g, text)) << text;
}

TEST(JsonGrammar, NestingIsBounded) {
  GrammarMatcher m(json_object_grammar());
  ASSERT_TRUE(m.advance("{\"a\":"));
  int depth = 0;
  while (depth < 1000 && m.advance("[")) ++depth;
  EXPECT_GT(depth, 50);
  EXPECT_LT(depth, GrammarMatcher::kMaxDepth);
}

struct SchemaCase {
  const char* schema;
  std::vector<const char*> good, bad;
};

TEST(SchemaGrammar, WhatIsLetThrough) {
  const SchemaCase cases[] = {
      {R"({"type":"boolean"})", {"true", "false"}, {"null", "1", "True"}},
      {R"({"type":["string","null"]})", {"null", "\"x\""}, {"1"}},
      {R"({"type":"integer"})",
       {"0", "-7", "123456789012345678"},
       {"1.0", "01", "-", "1e3", "1234567890123456789"}},
      {R"({"type":"integer","minimum":-12,"maximum":105})",
       {"-12", "-1", "0", "9", "10", "99", "100", "105"},
       {"-13", "106", "110", "200", "-0", "-20", "1000", "-012"}},
      {R"({"type":"integer","exclusiveMinimum":0,"exclusiveMaximum":3})", {"1", "2"}, {"0", "3"}},
      {R"({"type":"integer","minimum":1.5,"maximum":2.5})", {"2"}, {"1", "3"}},
      {R"({"type":"integer","maximum":-5})", {"-5", "-6", "-100"}, {"-4", "0", "5"}},
      {R"({"type":"number"})", {"0", "-0.5", "1e10", "3.25E-2"}, {"1.", ".5", "1e", "1e100"}},
      {R"({"type":"number","minimum":0,"maximum":1})",
       {"0", "0.5", "1", "1.0", "1.00"},
       {"1.01", "-0.1", "2", "1e0"}},
      {R"({"type":"number","exclusiveMinimum":0,"exclusiveMaximum":1})",
       {"0.5", "0.001", "0.999"},
       {"0", "0.0", "1", "1.0"}},
      {R"({"type":"number","minimum":-2,"exclusiveMaximum":0})",
       {"-2", "-2.0", "-1.5", "-0.01"},
       {"0", "-0", "-0.0", "-2.1", "1"}},
      {R"({"type":"number","minimum":7,"maximum":7})", {"7", "7.0"}, {"7.1", "6"}},
      {R"({"type":"number","minimum":3})", {"3", "3.5", "1000"}, {"2.9", "-3", "0"}},
      {R"({"type":"string","minLength":2,"maxLength":3})",
       {"\"ab\"", "\"abc\"", "\"a\\n\"", "\"é€😀\""},
       {"\"a\"", "\"abcd\"", "ab"}},
      {R"({"const":{"a":[1,"x"]}})", {R"({"a":[1,"x"]})"}, {R"({"a":[1]})"}},
      {R"({"enum":["red","green",3,null]})", {"\"red\"", "3", "null"}, {"\"blue\"", "4", "red"}},
      {R"({"type":"string","enum":["a",1]})", {"\"a\""}, {"1"}},
      {R"({"type":"array","items":{"type":"integer"},"minItems":1,"maxItems":3})",
       {"[1]", "[1, 2]", "[1,2,\n 3]"},
       {"[]", "[1,2,3,4]", "[1,]", "[\"a\"]"}},
      {R"({"type":"array","items":{"type":"null"}})", {"[]", "[ ]", "[null,null,null,null]"}, {"[1]"}},
      {R"({"type":"array","maxItems":0})", {"[]"}, {"[1]"}},
      {R"({"type":"array","prefixItems":[{"type":"integer"},{"type":"string"}],"items":false})",
       {"[]", "[1]", "[1,\"a\"]"},
       {"[\"a\"]", "[1,\"a\",2]"}},
      {R"({"type":"array","prefixItems":[{"type":"integer"}],"items":{"type":"boolean"},"minItems":2})",
       {"[1,true]", "[1,true,false]"},
       {"[1]", "[1,1]"}},
      {R"({"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"string"}},"required":["b"]})",
       {R"({"a":1,"b":""})", R"({"b":"x"})", R"({ "a":1, "b":"" })"},
       {"{}", R"({"a":1})", R"({"b":"","a":1})", R"({"b":"","c":1})", R"({"b":1})"}},
      {R"({"type":"object","properties":{"a":{"type":"null"},"b":{"type":"null"}},"additionalProperties":false})",
       {"{}", R"({"a":null})", R"({"b":null})", R"({"a":null,"b":null})"},
       {R"({,"b":null})", R"({"a":null,})", R"({"c":null})"}},
      {R"({"type":"object","properties":{"we \"quote\"":{"type":"null"}},"required":["we \"quote\""]})",
       {R"({"we \"quote\"":null})"},
       {"{}"}},
      {R"({"type":"object"})", {"{}", R"({"x":[1]})"}, {"[]"}},
      {R"({"type":"object","additionalProperties":false})", {"{}"}, {R"({"x":1})"}},
      {R"({"type":"object","additionalProperties":{"type":"integer"}})",
       {"{}", R"({"x":1,"y":2})"},
       {R"({"x":"1"})"}},
      {R"({"type":"object","required":["k"]})", {R"({"k":[1]})"}, {"{}"}},
      {R"({"properties":{"a":{}},"required":["a"]})", {R"({"a":[{}]})"}, {"{}"}},
      {R"({"anyOf":[{"type":"integer"},{"type":"array","items":{"$ref":"#"}}]})",
       {"1", "[1,[2,[]]]"},
       {"\"a\"", "[null]"}},
      {R"({"$ref":"#/$defs/node","$defs":{"node":{"type":"object","properties":{"v":{"type":"integer"},"next":{"anyOf":[{"type":"null"},{"$ref":"#/$defs/node"}]}},"required":["v","next"]}}})",
       {R"({"v":1,"next":null})", R"({"v":1,"next":{"v":2,"next":null}})"},
       {R"({"v":1})", R"({"v":1,"next":{}})"}},
      {R"({"allOf":[{"type":"null"}],"title":"x","description":"y","default":null})", {"null"}, {"1"}},
      {R"({})", {"1", "{}", "[null]", "\"\""}, {"", "x"}},
      {R"(true)", {"1"}, {"x"}},
      {R"({"type":"string","pattern":"^[A-Z]{2}-\\d+$"})",
       {"\"AB-1\"", "\"ZZ-007\""},
       {"\"A-1\"", "\"AB-\"", "\"AB-1x\"", "\"xAB-1\""}},
      {R"({"type":"string","pattern":"b+"})", {"\"b\"", "\"abba\"", "\"\\nb\""}, {"\"\"", "\"aa\""}},
      {R"({"type":"string","pattern":"^(yes|no|[^a-z\"])?$"})",
       {"\"\"", "\"yes\"", "\"A\"", "\"é\"", "\"\\\\\""},
       {"\"y\"", "\"\\\"\"", "\"b\""}},
      {R"({"type":"string","pattern":"^.\"\\\\$"})", {R"("x\"\\")", R"("\"\"\\")"}, {R"("\n\"\\")"}},
      {R"({"type":"string","pattern":"^\\w+@\\w+\\.(?:com|org)$"})",
       {"\"a_1@b.org\""},
       {"\"a@b.net\"", "\"a@bxcom\""}},
      {R"({"type":"string","pattern":"^(ab?){2,3}$"})",
       {"\"aa\"", "\"abab\"", "\"aaab\""},
       {"\"ab\"", "\"aaaa\""}},
      {R"({"type":"string","pattern":"^é*$"})", {"\"\"", "\"éé\""}, {"\"e\"", "\"\xc3\""}},
  };
  for (const SchemaCase& c : cases) {
    SCOPED_TRACE(c.schema);
    const auto g = json_schema_grammar(c.schema);
    for (const char* text : c.good) EXPECT_TRUE(accepts(g, text)) << text;
    for (const char* text : c.bad) EXPECT_FALSE(accepts(g, text)) << text;
  }
}

TEST(SchemaGrammar, RefusedWithTheirPlace) {
  const auto nested = [](int depth) {
    std::string s;
    for (int i = 0; i < depth; ++i) s += R"({"items":)";
    return s + "{}" + std::string(static_cast<size_t>(depth), '}');
  };
  const std::pair<std::string, const char*> cases[] = {
      {"{", "not JSON"},
      {"[]", "at its root: expected an object or true, got array"},
      {"false", "nothing fits"},
      {R"j({"type":"text"})j", "expected a type of JSON, got \"text\""},
      {R"j({"type":[]})j", "empty list"},
      {R"j({"properties":{"a":{"not":{}}}})j", "at /properties/a: the keyword 'not' is not supported"},
      {R"j({"oneOf":[{}]})j", "'oneOf' is not supported"},
      {R"j({"type":"array","uniqueItems":true})j", "uniqueItems"},
      {R"j({"type":"integer","multipleOf":2})j", "multipleOf"},
      {R"j({"anyOf":[{"type":"null"}],"type":"null"})j", "'type' beside 'anyOf'"},
      {R"j({"anyOf":[]})j", "at /anyOf: expected a list of schemas"},
      {R"j({"allOf":[{},{}]})j", "more than one"},
      {R"j({"$ref":"other.json"})j", "only references into this schema"},
      {R"j({"$ref":"#/$defs/x"})j", "'#/$defs/x' is not in the schema"},
      {R"j({"$ref":"#"})j", "nothing fits it"},
      {R"j({"anyOf":[{"$ref":"#"},{"type":"null"}]})j", "refers to itself"},
      {R"j({"properties":{"a":{"$ref":"#"}},"required":["a"]})j", "nothing fits it"},
      {R"j({"required":["a"],"additionalProperties":false})j", "additionalProperties is false"},
      {R"j({"required":["a"],"properties":{"a":false}})j", "required and forbidden"},
      {R"j({"required":"a"})j", "at /required: expected a list of names"},
      {R"j({"minLength":3,"maxLength":2})j", "nothing fits"},
      {R"j({"minLength":-1})j", "at /minLength: expected a whole number"},
      {R"j({"minLength":1e9})j", "at /minLength: expected a whole number"},
      {R"j({"maxLength":49999})j", "too large"},
      {R"j({"minItems":2,"prefixItems":[{}],"items":false})j", "nothing fits"},
      {R"j({"type":"integer","minimum":3,"maximum":2})j", "no number lies within"},
      {R"j({"type":"number","minimum":0.5})j", "must be whole, got 0.5"},
      {R"j({"type":"number","minimum":"1"})j", "expected a number"},
      {R"j({"type":"string","enum":[1]})j", "no value fits"},
      {R"j({"enum":[]})j", "no value fits"},
      {R"j({"pattern":"a(?=b)"})j", "at /pattern: the pattern holds a look-around"},
      {R"j({"pattern":"(a"})j", "group without an end"},
      {R"j({"pattern":"a)"})j", "unopened group"},
      {R"j({"pattern":"a**"})j", "quantifier follows another"},
      {R"j({"pattern":"a{3,2}"})j", "wrong repetition"},
      {R"j({"pattern":"a{99999}"})j", "repeats something"},
      {R"j({"pattern":"[z-a]"})j", "which is empty"},
      {R"j({"pattern":"[a"})j", "ends where"},
      {R"j({"pattern":"\\bx"})j", "escape of a letter"},
      {R"j({"pattern":"(a)\\1"})j", "escape of a letter, a digit"},
      {R"j({"pattern":"a^b"})j", "anchor in the middle"},
      {R"j({"pattern":"a$b"})j", "anchor in the middle"},
      {R"j({"pattern":"^a|b$"})j", "anchor beside '|'"},
      {R"j({"pattern":"^[]$"})j", "nothing fits it"},
      {R"j({"pattern":"(((((a{100}){100}){100}){100}){100})"})j", "too large"},
      {R"j({"pattern":")j" + std::string(40, '(') + "a" + std::string(40, ')') + "\"}",
       "nested more than 32 deep"},
      {nested(33), "nested more than 32 deep"},
      {nested(500), "nested 501 deep"},
      {"{\"title\":\"" + std::string(70000, 'x') + "\"}", "expected at most 65536"},
  };
  for (const auto& [schema, message] : cases) {
    SCOPED_TRACE(schema.substr(0, 100));
    try {
      json_schema_grammar(schema);
      ADD_FAILURE() << "accepted";
    } catch (const Error& e) {
      EXPECT_TRUE(e.code() == Code::kBadArgument || e.code() == Code::kUnsupported);
      EXPECT_THAT(e.what(), ::testing::HasSubstr(message));
    }
  }
  EXPECT_NO_THROW(json_schema_grammar(nested(32)));
}

// A validator that shares nothing with the compiler.
bool fits(const Json& v, const Json& s, const Json& document) {
  if (s.is_boolean()) return s.get<bool>();
  if (s.contains("$ref"))
    return fits(v, document.at(Json::json_pointer(s["$ref"].get<std::string>().substr(1))), document);
  if (s.contains("anyOf") &&
      std::none_of(s["anyOf"].begin(), s["anyOf"].end(), [&](const Json& x) { return fits(v, x, document); }))
    return false;
  if (s.contains("enum") && std::find(s["enum"].begin(), s["enum"].end(), v) == s["enum"].end()) return false;
  if (s.contains("const") && v != s["const"]) return false;
  const auto is = [&](const std::string& t) {
    return t == "object"    ? v.is_object()
           : t == "array"   ? v.is_array()
           : t == "string"  ? v.is_string()
           : t == "boolean" ? v.is_boolean()
           : t == "null"    ? v.is_null()
           : t == "number"  ? v.is_number()
                            : v.is_number_integer();
  };
  if (s.contains("type")) {
    const Json types = s["type"].is_array() ? s["type"] : Json::array({s["type"]});
    if (std::none_of(types.begin(), types.end(), [&](const Json& t) { return is(t.get<std::string>()); }))
      return false;
  }
  if (v.is_number()) {
    const double x = v.get<double>();
    if (s.contains("minimum") && x < s["minimum"].get<double>()) return false;
    if (s.contains("maximum") && x > s["maximum"].get<double>()) return false;
    if (s.contains("exclusiveMinimum") && x <= s["exclusiveMinimum"].get<double>()) return false;
    if (s.contains("exclusiveMaximum") && x >= s["exclusiveMaximum"].get<double>()) return false;
  }
  if (v.is_string()) {
    const auto text = v.get<std::string>();
    const auto length = std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; });
    if (s.contains("minLength") && length < s["minLength"].get<int>()) return false;
    if (s.contains("maxLength") && length > s["maxLength"].get<int>()) return false;
    if (s.contains("pattern") && !std::regex_search(text, std::regex(s["pattern"].get<std::string>())))
      return false;
  }
  if (v.is_array()) {
    if (s.contains("minItems") && v.size() < s["minItems"].get<size_t>()) return false;
    if (s.contains("maxItems") && v.size() > s["maxItems"].get<size_t>()) return false;
    if (s.contains("items"))
      for (const Json& item : v)
        if (!fits(item, s["items"], document)) return false;
  }
  if (v.is_object()) {
    for (const Json& key : s.value("required", Json::array()))
      if (!v.contains(key.get<std::string>())) return false;
    for (const auto& [key, value] : v.items())
      if (s.contains("properties") && s["properties"].contains(key)) {
        if (!fits(value, s["properties"][key], document)) return false;
      } else if (s.contains("additionalProperties") && !fits(value, s["additionalProperties"], document)) {
        return false;
      }
  }
  return true;
}

class Random {
 public:
  explicit Random(uint64_t seed) : seed_(seed) {}
  int below(int n) { return static_cast<int>(uniform_at(seed_, draws_++) * n); }
  bool chance(int percent) { return below(100) < percent; }

 private:
  uint64_t seed_, draws_ = 0;
};

Json random_schema(Random& random, int depth) {
  Json s = Json::object();
  switch (random.below(depth > 0 ? 11 : 6)) {
    case 0:
      return {{"type", random.chance(50) ? "boolean" : "null"}};
    case 1:
    case 2: {
      s["type"] = random.chance(50) ? "integer" : "number";
      const int low = random.below(300) - 150;
      if (random.chance(60)) s[random.chance(70) ? "minimum" : "exclusiveMinimum"] = low;
      if (random.chance(60))
        s[random.chance(70) ? "maximum" : "exclusiveMaximum"] = low + 2 + random.below(300);
      return s;
    }
    case 3:
      s["type"] = "string";
      if (random.chance(40)) s["minLength"] = random.below(4);
      if (random.chance(60)) s["maxLength"] = 4 + random.below(8);
      return s;
    case 4: {
      const char* patterns[] = {"^[a-f]{2,4}$", "^(cat|dog|[0-9]+)x?$", "^\\d{3}-\\d{4}$", "^[^a-z]+$", "q",
                                "^\\S.*\\w$"};
      return {{"type", "string"}, {"pattern", patterns[random.below(6)]}};
    }
    case 5:
      return {{"enum", {1, "two", nullptr, {{"three", 3}}, Json::array({4, "\"5\""})}}};
    case 6:
    case 7:
      s = {{"type", "array"}, {"items", random_schema(random, depth - 1)}};
      if (random.chance(50)) s["minItems"] = random.below(3);
      if (random.chance(60)) s["maxItems"] = 2 + random.below(3);
      return s;
    case 8:
      s["anyOf"] = Json::array();
      for (int i = 1 + random.below(3); i > 0; --i) s["anyOf"].push_back(random_schema(random, depth - 1));
      return s;
    case 9:
      return {{"$ref", random.chance(50) ? "#/$defs/leaf" : "#/$defs/tree"}};
    default: {
      s["type"] = "object";
      s["properties"] = Json::object();
      s["required"] = Json::array();
      const char* keys[] = {"name", "a b", "é", "q\"", "n"};
      for (const char* key : keys) {
        if (random.chance(50)) s["properties"][key] = random_schema(random, depth - 1);
        if (random.chance(30)) s["required"].push_back(key);
      }
      return s;
    }
  }
}

// Draws tokens that the mask lets through until the text is complete, with a pull towards its end.
std::string generate(GrammarMatcher& matcher, Random& random) {
  std::string text;
  for (int step = 0; step < 4000; ++step) {
    if (matcher.complete() && (!matcher.can_go_on() || random.chance(30))) return text;
    const auto& bits = matcher.mask(*trie());
    std::vector<int32_t> allowed;
    for (int32_t id = 0; id < trie()->vocab_size(); ++id)
      if (bits[static_cast<size_t>(id) / 64] >> (id % 64) & 1) allowed.push_back(id);
    if (allowed.empty()) {
      ADD_FAILURE() << "no way on after " << text.substr(0, 200);
      return text;
    }
    int32_t id = allowed[static_cast<size_t>(random.below(static_cast<int>(allowed.size())))];
    if (random.chance(step > 30 ? 80 : 20))
      for (const char* end : {"}", "]", "\""})
        for (const int32_t other : allowed)
          if (trie()->bytes(other) == end) id = other;
    text += trie()->bytes(id);
    EXPECT_TRUE(matcher.advance(trie()->bytes(id)));
  }
  ADD_FAILURE() << "no end: " << text.substr(0, 200);
  return text;
}

TEST(SchemaGrammar, EverythingGeneratedParsesAndFits) {
  int values = 0;
  for (uint64_t seed = 0; seed < 300; ++seed) {
    Random random(seed);
    Json schema = random_schema(random, 3);
    schema["$defs"] = {
        {"leaf", {{"type", "integer"}, {"minimum", 0}}},
        {"tree",
         {{"type", "object"},
          {"properties",
           {{"sub", {{"type", "array"}, {"items", {{"$ref", "#/$defs/tree"}}}, {"maxItems", 2}}}}}}}};
    SCOPED_TRACE(schema.dump());
    const auto grammar = json_schema_grammar(schema.dump());
    for (int i = 0; i < 2; ++i) {
      GrammarMatcher matcher(grammar);
      const std::string text = generate(matcher, random);
      ASSERT_TRUE(Json::accept(text)) << text.substr(0, 200);
      ASSERT_TRUE(fits(Json::parse(text), schema, schema)) << text;
      values += text.size() > 2;
    }
  }
  EXPECT_GT(values, 300);
}

TEST(JsonGrammar, EverythingGeneratedParses) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    Random random(1000 + seed);
    GrammarMatcher matcher(json_object_grammar());
    const std::string text = generate(matcher, random);
    EXPECT_TRUE(Json::accept(text)) << text.substr(0, 200);
  }
}

TEST(GrammarMatcher, TheMaskIsWhatTokenByTokenTrialSays) {
  const auto grammar = json_schema_grammar(
      R"({"type":"object","properties":{"the":{"type":"string","maxLength":4},"n":{"type":"integer","maximum":17}},"required":["n"]})");
  for (const char* before : {"", "{", "{\"", "{\"t", "{\"the\":\"", "{\"the\":\"ab", "{\"the\":\"abcd",
                             "{\"n\":1", "{\"n\":17", "{\"n\":-5}"}) {
    SCOPED_TRACE(before);
    GrammarMatcher matcher(grammar);
    ASSERT_TRUE(matcher.advance(before));
    const std::vector<uint64_t> bits = matcher.mask(*trie());
    for (int32_t id = 0; id < trie()->vocab_size(); ++id) {
      GrammarMatcher trial(grammar);
      trial.advance(before);
      const std::string bytes = trie()->bytes(id);
      EXPECT_EQ(bits[static_cast<size_t>(id) / 64] >> (id % 64) & 1, !bytes.empty() && trial.advance(bytes))
          << bytes;
    }
  }
}

TEST(GrammarMatcher, FailedStepsChangeNothing) {
  GrammarMatcher m(json_schema_grammar(R"({"const":"abc"})"));
  EXPECT_TRUE(m.advance("\"a"));
  EXPECT_FALSE(m.advance("bx"));
  EXPECT_FALSE(m.complete());
  EXPECT_TRUE(m.advance("bc\""));
  EXPECT_TRUE(m.complete());
  EXPECT_FALSE(m.can_go_on());
}

TEST(GrammarMatcher, AmbiguityIsBounded) {
  std::string schema = R"({"anyOf":[)";
  for (int i = 0; i < 1200; ++i) schema += std::string(i ? "," : "") + R"({"type":"array","items":{}})";
  GrammarMatcher m(json_schema_grammar(schema + "]}"));
  try {
    m.advance("[[1,2,[3]]]");
    FAIL();
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), ::testing::HasSubstr("too ambiguous"));
  }
}

TEST(GrammarConstraint, EndsOnlyWhereTheTextIsComplete) {
  constexpr int32_t kEnd = 2;
  const auto make = constraint(json_schema_grammar(R"({"enum":[1,12]})"), trie(), {kEnd});
  const auto adjust = make(0);
  const auto one = tokenizer()->id_of("1").value(), two = tokenizer()->id_of("2").value();
  std::vector<int32_t> tokens = {7, 8, 9};
  const auto allowed = [&] {
    std::vector<float> logits(static_cast<size_t>(trie()->vocab_size()) + 5, 1.0f);
    adjust(tokens, logits);
    std::vector<int32_t> ids;
    for (size_t i = 0; i < logits.size(); ++i)
      if (logits[i] != -INFINITY) ids.push_back(static_cast<int32_t>(i));
    return ids;
  };
  EXPECT_THAT(allowed(), ::testing::Contains(one));
  EXPECT_THAT(allowed(), ::testing::Not(::testing::Contains(kEnd)));
  tokens.push_back(one);
  EXPECT_THAT(allowed(), ::testing::UnorderedElementsAre(kEnd, two));
  tokens.push_back(two);
  EXPECT_THAT(allowed(), ::testing::ElementsAre(kEnd));
  EXPECT_THROW(constraint(json_object_grammar(), trie(), {}), Error);
}

}  // namespace
}  // namespace awq
