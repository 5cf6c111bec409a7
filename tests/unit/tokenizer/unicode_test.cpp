#include "tokenizer/unicode.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/split_regex.h"

namespace awq {
namespace {

using namespace std::string_literals;

TEST(Utf8, MaximalInvalidPartsBecomeOneReplacementEach) {
  struct Row {
    std::string bytes, text;
  };
  // Unicode 15, section 3.9, tables 3-8 to 3-11, and plain cases.
  const Row rows[] = {
      {"", ""},
      {"plain é 中 😀", "plain é 中 😀"},
      {"\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41", "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\x41"},
      {"\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41", "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\x41"},
      {"\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42", "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\x41\uFFFD\uFFFD\x42"},
      {"\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41", "\uFFFD\uFFFD\uFFFD\uFFFD\x41"},
      {"\xE4\xB8", "\uFFFD"},
      {"a\0b"s, "a\0b"s},
  };
  for (const Row& row : rows) {
    EXPECT_EQ(replace_invalid_utf8(row.bytes), row.text);
    EXPECT_EQ(is_valid_utf8(row.bytes), row.bytes == row.text);
  }
}

TEST(Utf8, IncompleteSuffix) {
  EXPECT_EQ(incomplete_utf8_suffix(""), 0u);
  EXPECT_EQ(incomplete_utf8_suffix("abc"), 0u);
  EXPECT_EQ(incomplete_utf8_suffix("é"), 0u);
  EXPECT_EQ(incomplete_utf8_suffix("a\xC3"), 1u);
  EXPECT_EQ(incomplete_utf8_suffix("\xE4\xB8"), 2u);
  EXPECT_EQ(incomplete_utf8_suffix("x\xF0\x9F\x98"), 3u);
  EXPECT_EQ(incomplete_utf8_suffix("\xF0\x9F\x98\x80"), 0u);
  EXPECT_EQ(incomplete_utf8_suffix("\xE0\x80"), 0u);  // overlong: can never become valid
  EXPECT_EQ(incomplete_utf8_suffix("\x80\x80\x80"), 0u);
  EXPECT_EQ(incomplete_utf8_suffix("\xFF"), 0u);
}

TEST(Utf8, CodePointsForwardAndBackward) {
  const std::string text = "aé中😀";
  const char32_t expected[] = {U'a', U'é', U'中', U'😀'};
  size_t pos = 0;
  for (const char32_t c : expected) EXPECT_EQ(next_code_point(text, pos), c);
  EXPECT_EQ(pos, text.size());
  for (int i = 3; i >= 0; --i) EXPECT_EQ(previous_code_point(text, pos), expected[i]);
  EXPECT_EQ(pos, 0u);
}

TEST(Unicode, GraphemeClusters) {
  // Each row is one cluster; the rows joined are cut back into them.
  const std::vector<std::string> clusters = {
      "a",  "e\u0301\u0316", "\r\n", "\n", "\r", "\u1112\u1161\u11ab", "각", "😀", "👩\u200d👩\u200d👧", "👍🏽", "🇩🇪", "🇫",
      "x",  "क\u094d\u0937\u093f", "\u0600\u0661", "©\u200d", "b", "\u0000"s};
  std::string all;
  for (const std::string& c : clusters) all += c;
  size_t pos = 0;
  for (const std::string& c : clusters) {
    const size_t end = grapheme_end(all, pos);
    EXPECT_EQ(all.substr(pos, end - pos), c);
    pos = end;
  }
  EXPECT_EQ(pos, all.size());
}

// Code points that came after the Unicode versions which `tokenizers` has are nothing special.
TEST(Unicode, CategoriesOfOldVersions) {
  EXPECT_TRUE(is_punctuation('$') && is_punctuation(0x3002) && is_punctuation(0x166d));
  EXPECT_FALSE(is_punctuation('a') || is_punctuation(0x61d) || is_punctuation(0x20ac));
  EXPECT_TRUE(is_mark(0x301) && is_mark(0x903) && !is_mark(0x9fe));
  EXPECT_TRUE(is_nonspacing_mark(0x301) && !is_nonspacing_mark(0x903) && !is_nonspacing_mark(0x1885));
  EXPECT_TRUE(is_other(0x200d) && is_other(0xe000) && !is_other(0x378) && !is_other('a'));
  EXPECT_EQ(normalize_unicode("\u32fe\u32ff", NormalForm::kNfkc), "ヲ\u32ff");  // U+32FF is of Unicode 12.1
}

TEST(ByteLevel, EveryByteHasOneCharacter) {
  std::string all;
  for (int b = 0; b < 256; ++b) all += static_cast<char>(b);
  EXPECT_TRUE(is_valid_utf8(to_byte_level(all)));
  EXPECT_EQ(from_byte_level(to_byte_level(all)), all);
  EXPECT_EQ(to_byte_level(" a\n"), "ĠaĊ");
  EXPECT_EQ(from_byte_level("a b"), "a b");  // a space is not in the alphabet: the text itself
}

std::string first_match(const char* pattern, const std::string& text) {
  const auto found = SplitRegex(pattern, "test").find(text, 0);
  return found ? text.substr(found->begin, found->end - found->begin) : "(none)";
}

TEST(SplitRegex, ReadsRubySyntax) {
  EXPECT_EQ(first_match(R"(\p{N}{1,3}+)", "12345678"),
            "12345678");  // a repeated repeat, not a possessive one
  EXPECT_EQ(first_match(R"(a{,2}b)", "aab"), "aab");
  EXPECT_EQ(first_match(R"({x})", "a{x}"), "{x}");
  EXPECT_EQ(first_match(R"(\h+)", " beef"), "beef");
  EXPECT_EQ(first_match(R"(^b)", "a\nb"), "b");
  EXPECT_EQ(first_match(R"(\s+)", "\u180e\u3000"), "\u3000");
  EXPECT_EQ(first_match(R"([^\S\n]+)", "\n\t x"), "\t ");
  EXPECT_EQ(first_match(R"(\w+)", " e\u0301\u0301."), "e\u0301\u0301");
  EXPECT_EQ(first_match(R"(\p{Han}+)", "、中文"), "中文");
  EXPECT_EQ(first_match(R"(\p{Letter}+)", "1ab"), "ab");
  EXPECT_EQ(first_match(R"((?m:a.b))", "a\nb"), "a\nb");
  EXPECT_EQ(first_match(R"(a.b)", "a\nb"), "(none)");
  EXPECT_EQ(first_match(R"(\u4e2d\x{6587}\x41)", "中文A"), "中文A");
  EXPECT_EQ(first_match(R"([]x]+)", "a]x"), "]x");
}

TEST(SplitRegex, RefusesWhatItCannotKeep) {
  for (const char* pattern :
       {R"([a&&b])", R"([a[b]])", R"(\p{NoSuchScript})", R"(a{2}?)", R"(\q)", R"(a(?i)b)", R"((?x)a)",
        R"([a)", R"(\)", R"(\x{)", R"(\p)", R"(*a)", R"((?<n)", R"(\C)", R"((*FAIL))"}) {
    try {
      SplitRegex(pattern, "file.json");
      ADD_FAILURE() << pattern;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), Code::kUnsupported);
      EXPECT_EQ(std::string(e.what()).rfind("file.json: regular expression '", 0), 0u) << e.what();
    }
  }
}

}  // namespace
}  // namespace awq
