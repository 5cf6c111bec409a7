// Ends a text at the first of some strings, wherever tokens begin and end. Text that may still become one of
// them is held back, so that what was handed out never has to be taken back.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace awq {

class StopStrings {
 public:
  // kBadArgument for an empty one.
  explicit StopStrings(std::vector<std::string> stops);

  // The text that has become certain; empty once stopped. The string that is complete first ends the text in
  // front of it; of several that end at the same byte the longest.
  std::string push(std::string_view piece);
  // The end of the text: what was held back.
  std::string flush();
  bool stopped() const { return !found_.empty(); }
  const std::string& found() const { return found_; }  // which one; empty: none

 private:
  struct Stop {
    std::string text;
    std::vector<size_t>
        borders;  // [text + 1]: longest proper prefix that is also a suffix (Knuth, Morris, Pratt 1977)
    size_t matched = 0;  // of it, at the end of what was read
  };
  std::vector<Stop> stops_;
  std::string held_, found_;
};

}  // namespace awq
