// Python's methods of str, on UTF-8. Positions and lengths are bytes unless a name says points (code points).
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace awq::chat_template {

int64_t count_points(std::string_view text);
// Bytes of the code point at `at`.
size_t point_length(std::string_view text, size_t at);
// Byte offset of a code point; text.size() when there are fewer.
size_t point_offset(std::string_view text, int64_t point);
std::string_view substring(std::string_view text, int64_t begin_point, int64_t end_point);
char32_t point_at(std::string_view text, size_t at);

bool is_space(char32_t c);      // str.isspace of one character
bool is_printable(char32_t c);  // what repr shows as it is

std::string quoted(std::string_view text);  // repr()

enum class Side : uint8_t { kLeft = 1, kRight = 2, kBoth = 3 };
std::string_view strip_space(std::string_view text, Side side);
std::string_view strip_chars(std::string_view text, std::string_view chars, Side side);

std::string upper(std::string_view text);
std::string lower(std::string_view text);
std::string capitalize(std::string_view text);
std::string title(std::string_view text);  // str.title: each run of letters
std::string casefold(std::string_view text);
std::string swapcase(std::string_view text);

// limit < 0: no limit. Splitting at white space drops empty parts.
std::vector<std::string_view> split_space(std::string_view text, int64_t limit, bool from_right);
std::vector<std::string_view> split_at(std::string_view text, std::string_view separator, int64_t limit,
                                       bool from_right);
std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends);
int64_t count_occurrences(std::string_view text, std::string_view part);
std::string replace_all(std::string_view text, std::string_view from, std::string_view to, int64_t limit);

enum class Property : uint8_t {
  kAlpha,
  kDigit,
  kDecimal,
  kNumeric,
  kAlnum,
  kSpace,
  kUpper,
  kLower,
  kTitle,
  kAscii,
  kIdentifier,
  kPrintable
};
bool has_property(std::string_view text, Property property);  // str.isalpha and its kin
int64_t count_words(std::string_view text);                   // runs of \w
std::string escape_html(std::string_view text);               // markupsafe.escape

}  // namespace awq::chat_template
