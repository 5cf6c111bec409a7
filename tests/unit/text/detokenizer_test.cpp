#include "text/detokenizer.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "tokenizer/unicode.h"

namespace awq {
namespace {

using Json = nlohmann::json;

Json recorded(const char* name) {
  std::ifstream in(std::string(AWQ_TEST_DATA) + "/tokenizer/" + name + ".json");
  return Json::parse(in);
}

TEST(Detokenizer, PiecesAreValidAndJoinToTheDecodedText) {
  for (const char* family : {"gpt2", "llama3", "qwen2", "smollm"}) {
    const Json file = recorded(family);
    const auto t = Tokenizer::from_json(file["tokenizer"].dump(), family);
    for (const bool skip : {false, true}) {
      Detokenizer d(t, skip);
      for (const Json& c : file["cases"]) {
        std::string text;
        for (const int32_t id : c["ids"].get<std::vector<int32_t>>()) {
          const std::string piece = d.push(id);
          EXPECT_TRUE(is_valid_utf8(piece));
          text += piece;
        }
        text += d.flush();
        EXPECT_EQ(text, c[skip ? "decoded_skip" : "decoded"].get<std::string>());
      }
    }
  }
}

TEST(Detokenizer, HoldsBackAnUnfinishedCharacter) {
  const auto t = Tokenizer::from_json(recorded("gpt2")["tokenizer"].dump(), "gpt2");
  const auto byte = [&](const char* token) { return t->id_of(token).value(); };
  Detokenizer d(t);
  // U+1F600 is F0 9F 98 80, in the byte-level alphabet: ð Ł ĺ Ģ
  EXPECT_EQ(d.push(byte("ð")), "");
  EXPECT_EQ(d.push(byte("Ł")), "");
  EXPECT_EQ(d.push(byte("ĺ")), "");
  EXPECT_EQ(d.held_back(), 3u);
  EXPECT_EQ(d.push(byte("Ģ")), "😀");
  EXPECT_EQ(d.held_back(), 0u);
  EXPECT_EQ(d.push(byte("ð")), "");
  EXPECT_EQ(d.push(byte("a")), "\uFFFDa");
  EXPECT_EQ(d.push(byte("ð")), "");
  EXPECT_EQ(d.flush(), "\uFFFD");
  EXPECT_EQ(d.flush(), "");
  EXPECT_EQ(d.push(byte("a")), "a");
}

// Vocabularies that mark the start of a word: the first mark of a text is no space, that of a continuation is one.
TEST(Detokenizer, TheFirstSpaceOfATextIsNotShown) {
  for (const char* file : {"unigram", "characters"}) {
    const Json json = recorded(file);
    const auto t = Tokenizer::from_json(json["tokenizer"].dump(), file);
    const auto ids = t->encode("The river was 河", false);
    const std::string text = t->decode(ids, true);
    ASSERT_TRUE(text.starts_with("The river"));
    Detokenizer whole(t, true, true), rest(t);
    for (int round = 0; round < 2; ++round) {  // ready for another text after flush()
      std::string first, later;
      for (const int32_t id : ids) {
        first += whole.push(id);
        later += rest.push(id);
      }
      first += whole.flush();
      later += rest.flush();
      EXPECT_EQ(first, text);
      EXPECT_EQ(later, " " + text);
    }
  }
}

// Characters that come as several byte tokens, complete and not.
TEST(Detokenizer, ByteTokensBecomeCharacters) {
  const auto t = Tokenizer::from_json(recorded("characters")["tokenizer"].dump(), "characters");
  Detokenizer d(t);
  EXPECT_EQ(d.push(*t->id_of("<0xF0>")), "");
  EXPECT_EQ(d.push(*t->id_of("<0x9F>")), "");
  EXPECT_EQ(d.push(*t->id_of("<0x98>")), "");
  EXPECT_EQ(d.push(*t->id_of("<0x80>")), "😀");
  EXPECT_EQ(d.push(*t->id_of("<0xE4>")), "");
  EXPECT_EQ(d.push(*t->id_of("a")), "\uFFFDa");
}

TEST(Detokenizer, SpecialTokensAreShownOnRequest) {
  const auto t = Tokenizer::from_json(recorded("gpt2")["tokenizer"].dump(), "gpt2");
  EXPECT_EQ(Detokenizer(t, true).push(0), "");
  EXPECT_EQ(Detokenizer(t, false).push(0), "<|begin|>");
  EXPECT_EQ(Detokenizer(t).push(-1), "");
}

}  // namespace
}  // namespace awq
