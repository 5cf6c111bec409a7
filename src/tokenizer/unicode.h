// UTF-8 and the few Unicode properties tokenizers need, in the versions of ICU.
#pragma once
#include <cstddef>
#include <string>
#include <string_view>

namespace awq {

bool is_valid_utf8(std::string_view text);
// Every maximal invalid part becomes one U+FFFD (Unicode 15, section 3.9, table 3-8; what Rust and browsers
// do).
std::string replace_invalid_utf8(std::string_view bytes);
inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD
// Bytes of the valid sequence that begins at `pos`, 0 if there is none.
size_t valid_utf8_at(std::string_view bytes, size_t pos);
// Length of the trailing bytes that begin a valid sequence but do not end it: 0 to 3.
size_t incomplete_utf8_suffix(std::string_view bytes);

// Bytes of the code point that starts with `lead`; valid UTF-8 is assumed.
inline size_t utf8_length(char lead) {
  const auto b = static_cast<unsigned char>(lead);
  return b < 0x80 ? 1 : b < 0xe0 ? 2 : b < 0xf0 ? 3 : 4;
}
// The code point at `pos` of valid UTF-8; moves `pos` behind it.
char32_t next_code_point(std::string_view text, size_t& pos);
// The code point that ends at `pos` > 0; moves `pos` to its start.
char32_t previous_code_point(std::string_view text, size_t& pos);
void append_utf8(std::string& out, char32_t c);

bool is_white_space(char32_t c);  // White_Space
bool is_number(char32_t c);       // general category N
bool is_word(char32_t c);         // \w of UTS #18: Alphabetic, M, Nd, Pc, Join_Control

// As `tokenizers` knows them, which is by the tables of Unicode 8 or 9:
bool is_punctuation(char32_t c);      // general category P, and ASCII's own symbols
bool is_mark(char32_t c);             // general category M
bool is_nonspacing_mark(char32_t c);  // general category Mn
bool is_other(char32_t c);            // general category C, assigned

// End of the extended grapheme cluster (UAX #29) that starts at `pos`.
size_t grapheme_end(std::string_view text, size_t pos);
// Number of the Script property of Unicode 9; equal numbers, equal scripts.
int script_of(char32_t c);
extern const int kScriptHan, kScriptHiragana, kScriptKatakana, kScriptUnknown;

// The forms of Unicode 9 (see above).
enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };
std::string normalize_unicode(std::string_view text, NormalForm form);
// Each code point on its own, so without the final sigma rule.
std::string lowercase_unicode(std::string_view text);

}  // namespace awq
