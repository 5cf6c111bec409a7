#include "text/stop_strings.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace awq {
namespace {

struct Outcome {
  std::string text, found;
  bool operator==(const Outcome&) const = default;
};
void PrintTo(const Outcome& o, std::ostream* out) {
  *out << '"' << o.text << "\" stopped by \"" << o.found << '"';
}

Outcome run(const std::vector<std::string>& stops, const std::string& text, size_t piece) {
  StopStrings s(stops);
  Outcome out;
  for (size_t i = 0; i < text.size(); i += piece) out.text += s.push(text.substr(i, piece));
  if (!s.stopped()) out.text += s.flush();
  out.found = s.found();
  return out;
}

TEST(StopStrings, EndTheTextInFrontWhereverThePiecesEnd) {
  struct Case {
    std::vector<std::string> stops;
    const char *text, *want, *found;
  };
  const Case cases[] = {
      {{"END"}, "one two", "one two", ""},
      {{"END"}, "one END two", "one ", "END"},
      {{"END"}, "ENEND", "EN", "END"},
      {{"END"}, "one EN", "one EN", ""},
      {{"aab"}, "aaaab", "aa", "aab"},
      {{"abab"}, "xabaabab", "xaba", "abab"},
      {{"aaa"}, "aa", "aa", ""},
      {{"\n\n", "."}, "a\nb.c", "a\nb", "."},
      {{"cd", "abcd"}, "xabcd", "x", "abcd"},
      {{"abcd", "bc"}, "xabcd", "xa", "bc"},
      {{"b"}, "b", "", "b"},
      {{"\xc3\xa9"}, "caf\xc3\xa9!", "caf", "\xc3\xa9"},
      {{}, "all", "all", ""},
  };
  for (const Case& c : cases)
    for (size_t piece = 1; piece < 6; ++piece)
      EXPECT_EQ(run(c.stops, c.text, piece), (Outcome{c.want, c.found})) << piece;
}

TEST(StopStrings, HandsOutWhatIsCertainAtOnce) {
  StopStrings s({"</end>"});
  EXPECT_EQ(s.push("a </en"), "a ");
  EXPECT_EQ(s.push("d x"), "</end x");
  EXPECT_EQ(s.push("<"), "");
  EXPECT_EQ(s.push("/end>"), "");
  EXPECT_TRUE(s.stopped());
  EXPECT_EQ(s.push("more"), "");
}

// Against searching the whole text.
TEST(StopStrings, EveryShortTextOfTwoLetters) {
  const std::vector<std::string> stops = {"aab", "bb", "abaa"};
  for (unsigned bits = 0; bits < 1u << 10; ++bits) {
    std::string text;
    for (int i = 0; i < 10; ++i) text += bits >> i & 1 ? 'b' : 'a';
    Outcome want{text, ""};
    size_t first = std::string::npos;
    for (const auto& stop : stops)
      if (const size_t at = text.find(stop); at != std::string::npos) {
        const size_t end = at + stop.size();
        if (end < first || (end == first && stop.size() > want.found.size()))
          first = end, want = {text.substr(0, at), stop};
      }
    EXPECT_EQ(run(stops, text, 1 + bits % 3), want);
  }
}

TEST(StopStrings, AnEmptyOneIsRefused) { EXPECT_THROW(StopStrings({"a", ""}), Error); }

}  // namespace
}  // namespace awq
