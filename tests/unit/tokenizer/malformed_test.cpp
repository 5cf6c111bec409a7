// Every tokenizer.json that is wrong or beyond us gives one line naming the file, the part and what was
// expected.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "base/error.h"
#include "fixtures.h"

namespace awq {
namespace {

using fixtures::Json;
using testing::HasSubstr;

struct Row {
  const char* name;
  const char* patch;  // JSON merge patch (RFC 7396) of a good file
  Code code;
  const char *part, *says;
};

constexpr Row kRows[] = {
    {"no_model", R"({"model":null})", Code::kBadFile, "top level", "'model'"},
    {"model_is_text", R"({"model":"BPE"})", Code::kBadFile, "model", "expected an object, got a string"},
    {"model_kind", R"({"model":{"type":"Morfessor"}})", Code::kUnsupported, "model.type",
     "'Morfessor' is not supported (supported: BPE, Unigram"},
    {"unigram_vocab", R"({"model":{"type":"Unigram"}})", Code::kBadFile, "model.vocab",
     "expected an array, got an object"},
    {"unigram_entry", R"({"model":{"type":"Unigram","vocab":[["a"]]}})", Code::kBadFile, "model.vocab[0]",
     "a token and its score"},
    {"unigram_score", R"({"model":{"type":"Unigram","vocab":[["a","b"]]}})", Code::kBadFile,
     "model.vocab[0][1]", "expected a number"},
    {"unigram_unk", R"({"model":{"type":"Unigram","vocab":[["a",0]],"unk_id":1}})", Code::kBadFile,
     "model.unk_id", "from 0 to 0"},
    {"charsmap_base64", R"({"normalizer":{"type":"Precompiled","precompiled_charsmap":"a*=="}})",
     Code::kBadFile, "normalizer.precompiled_charsmap", "base64"},
    {"charsmap_size", R"({"normalizer":{"type":"Precompiled","precompiled_charsmap":"////fwAA"}})",
     Code::kBadFile, "precompiled_charsmap", "2147483647"},
    {"fixed_length", R"({"pre_tokenizer":{"type":"FixedLength","length":0}})", Code::kBadFile,
     "pre_tokenizer.length", "1 or more"},
    {"dropout", R"({"model":{"dropout":0.1}})", Code::kUnsupported, "model.dropout", "supported: null"},
    {"suffix", R"({"model":{"end_of_word_suffix":5}})", Code::kBadFile, "model.end_of_word_suffix",
     "a string"},
    {"no_vocab", R"({"model":{"vocab":null}})", Code::kBadFile, "model", "'vocab'"},
    {"vocab_array", R"({"model":{"vocab":[1]}})", Code::kBadFile, "model.vocab",
     "expected an object, got an array"},
    {"vocab_negative", R"({"model":{"vocab":{"a":-1}}})", Code::kBadFile, "model.vocab.a", "got -1"},
    {"vocab_fraction", R"({"model":{"vocab":{"a":1.5}}})", Code::kBadFile, "model.vocab.a",
     "expected a number"},
    {"vocab_huge_id", R"({"model":{"vocab":{"a":2000000000}}})", Code::kBadFile, "ids near", "2000000000"},
    {"vocab_same_id", R"({"model":{"vocab":{"a":5,"b":5}}})", Code::kBadFile, "id 5", "expected one token"},
    {"no_merges", R"({"model":{"merges":null}})", Code::kBadFile, "model", "'merges'"},
    {"merge_of_three", R"({"model":{"merges":["a b c"]}})", Code::kBadFile, "model.merges.0", "token token"},
    {"merge_of_one", R"({"model":{"merges":[["a"]]}})", Code::kBadFile, "model.merges.0", "two tokens"},
    {"merge_of_numbers", R"({"model":{"merges":[[1,2]]}})", Code::kBadFile, "model.merges.0[0]",
     "expected a string"},
    {"merge_unknown", R"({"model":{"merges":["a zzz"]}})", Code::kBadFile, "merge 0", "'zzz'"},
    {"merge_result_unknown", R"({"model":{"merges":["! a"]}})", Code::kBadFile, "merge 0", "'!a'"},
    {"flag", R"({"model":{"byte_fallback":1}})", Code::kBadFile, "model.byte_fallback", "true or false"},
    {"normalizer", R"({"normalizer":{"type":"Transliterate"}})", Code::kUnsupported, "normalizer.type",
     "'Transliterate' is not supported (supported: NFC"},
    {"normalizer_untyped", R"({"normalizer":{"x":1}})", Code::kBadFile, "normalizer", "'type'"},
    {"normalizer_pattern", R"({"normalizer":{"type":"Replace","pattern":{"Glob":"*"},"content":""}})",
     Code::kBadFile, "normalizer.pattern", "String"},
    {"pre_tokenizer", R"({"pre_tokenizer":{"type":"Syllables"}})", Code::kUnsupported, "pre_tokenizer.type",
     "supported: ByteLevel, Split"},
    {"pre_tokenizer_nested",
     R"({"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Syllables"}]}})", Code::kUnsupported,
     "pre_tokenizer.pretokenizers[0].type", "'Syllables'"},
    {"behavior",
     R"({"pre_tokenizer":{"type":"Split","pattern":{"String":"x"},"behavior":"Kept","invert":false}})",
     Code::kUnsupported, "pre_tokenizer.behavior", "Isolated"},
    {"bad_regex",
     R"x({"pre_tokenizer":{"type":"Split","pattern":{"Regex":"(a"},"behavior":"Isolated","invert":false}})x",
     Code::kUnsupported, "'(a'", "regular expression"},
    {"regex_intersection",
     R"({"pre_tokenizer":{"type":"Split","pattern":{"Regex":"[a&&b]"},"behavior":"Isolated","invert":false}})",
     Code::kUnsupported, "'[a&&b]'", "intersection"},
    {"metaspace", R"({"pre_tokenizer":{"type":"Metaspace","replacement":"ab"}})", Code::kBadFile,
     "pre_tokenizer.replacement", "one character"},
    {"decoder", R"({"decoder":{"type":"Reverse"}})", Code::kUnsupported, "decoder.type", "ByteLevel"},
    {"post_processor", R"({"post_processor":{"type":"Padding"}})", Code::kUnsupported, "post_processor",
     "TemplateProcessing"},
    {"template_token",
     R"({"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>"}}]}})",
     Code::kBadFile, "post_processor.single[0]", "special_tokens"},
    {"template_empty", R"({"post_processor":{"type":"TemplateProcessing","single":[]}})", Code::kBadFile,
     "post_processor.single", "sequence A"},
    {"template_id",
     R"({"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"s"}},{"Sequence":{"id":"A"}}],
         "special_tokens":{"s":{"ids":[70000]}}}})",
     Code::kBadFile, "post_processor", "70000"},
    {"added_id", R"({"added_tokens":[{"id":"x","content":"y"}]})", Code::kBadFile, "added_tokens[0].id",
     "a number"},
    {"added_elsewhere", R"({"added_tokens":[{"id":3,"content":"a"}]})", Code::kBadFile, "added token 'a'",
     "got 3"},
    {"added_taken", R"({"added_tokens":[{"id":3,"content":"new"}]})", Code::kBadFile, "id 3", "'new'"},
};

class Malformed : public testing::TestWithParam<Row> {};

TEST_P(Malformed, IsRefusedInOneLine) {
  Json json = fixtures::load("gpt2")["tokenizer"];
  json.merge_patch(Json::parse(GetParam().patch));
  try {
    fixtures::tokenizer(json, "dir/tokenizer.json");
    ADD_FAILURE() << "accepted";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), GetParam().code) << e.what();
    EXPECT_THAT(e.what(), HasSubstr("dir/tokenizer.json: "));
    EXPECT_THAT(e.what(), HasSubstr(GetParam().part));
    EXPECT_THAT(e.what(), HasSubstr(GetParam().says));
    EXPECT_EQ(std::string(e.what()).find('\n'), std::string::npos);
  }
}

INSTANTIATE_TEST_SUITE_P(Files, Malformed, testing::ValuesIn(kRows),
                         [](const auto& p) { return std::string(p.param.name); });

TEST(Malformed, AFileCutAnywhereIsAnError) {
  const std::string text = fixtures::load("smollm")["tokenizer"].dump();
  for (size_t n = 0; n < text.size(); n += 97)
    EXPECT_THROW(Tokenizer::from_json(std::string_view(text).substr(0, n), "t"), Error) << n;
}

TEST(Malformed, DeepNestingIsAnError) {
  Json step = {{"type", "Digits"}, {"individual_digits", true}};
  for (int i = 0; i < 100; ++i) step = {{"type", "Sequence"}, {"pretokenizers", {step}}};
  Json json = fixtures::load("gpt2")["tokenizer"];
  json["pre_tokenizer"] = step;
  EXPECT_THROW(fixtures::tokenizer(json), Error);
}

TEST(Malformed, APatternThatExplodesEndsInAnError) {
  Json json = fixtures::load("gpt2")["tokenizer"];
  json["pre_tokenizer"] = {{"type", "Split"},
                           {"pattern", {{"Regex", "(a|a|aa)+[bc]"}}},
                           {"behavior", "Isolated"},
                           {"invert", false}};
  const auto t = fixtures::tokenizer(json);
  EXPECT_THROW(t->encode(std::string(200, 'a'), false), Error);
}

TEST(FromDir, NamesWhatWasLookedFor) {
  const auto dir = std::filesystem::path(testing::TempDir()) / "no_tokenizer_here";
  std::filesystem::create_directories(dir);
  try {
    Tokenizer::from_dir(dir);
    ADD_FAILURE();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), Code::kNotFound);
    EXPECT_THAT(e.what(), HasSubstr("tokenizer.json"));
    EXPECT_THAT(e.what(), HasSubstr(dir.string()));
  }
}

}  // namespace
}  // namespace awq
