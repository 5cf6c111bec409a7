#include "tokenizer/unicode.h"

#include <simdjson.h>
#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/uchar.h>
#include <unicode/uniset.h>
#include <unicode/uscript.h>
#include <unicode/utf8.h>

#include <algorithm>
#include <vector>

#include "base/error.h"

namespace awq {
namespace {

// Range of the second byte after each lead byte (Unicode 15, table 3-7); hi == 0: not a lead byte.
struct SecondByte {
  unsigned char lo, hi;
  int length;
};
SecondByte second_byte(unsigned char lead) {
  if (lead >= 0xc2 && lead <= 0xdf) return {0x80, 0xbf, 2};
  if (lead == 0xe0) return {0xa0, 0xbf, 3};
  if (lead == 0xed) return {0x80, 0x9f, 3};
  if (lead >= 0xe1 && lead <= 0xef) return {0x80, 0xbf, 3};
  if (lead == 0xf0) return {0x90, 0xbf, 4};
  if (lead >= 0xf1 && lead <= 0xf3) return {0x80, 0xbf, 4};
  if (lead == 0xf4) return {0x80, 0x8f, 4};
  return {0, 0, 1};
}

struct Sequence {
  size_t length;          // bytes of the sequence, or of its maximal invalid part
  bool valid, truncated;  // truncated: valid so far, the text ends inside
};
Sequence sequence_at(std::string_view text, size_t pos) {
  const auto lead = static_cast<unsigned char>(text[pos]);
  if (lead < 0x80) return {1, true, false};
  const SecondByte rule = second_byte(lead);
  if (rule.hi == 0) return {1, false, false};
  for (int i = 1; i < rule.length; ++i) {
    if (pos + i >= text.size()) return {static_cast<size_t>(i), false, true};
    const auto b = static_cast<unsigned char>(text[pos + i]);
    const unsigned char lo = i == 1 ? rule.lo : 0x80, hi = i == 1 ? rule.hi : 0xbf;
    if (b < lo || b > hi) return {static_cast<size_t>(i), false, false};
  }
  return {static_cast<size_t>(rule.length), true, false};
}

bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<signed char>(c) >= 0; });
}

const icu::Normalizer2* unfiltered(NormalForm form, UErrorCode& error) {
  switch (form) {
    case NormalForm::kNfc:
      return icu::Normalizer2::getNFCInstance(error);
    case NormalForm::kNfd:
      return icu::Normalizer2::getNFDInstance(error);
    case NormalForm::kNfkc:
      return icu::Normalizer2::getNFKCInstance(error);
    case NormalForm::kNfkd:
      return icu::Normalizer2::getNFKDInstance(error);
  }
  return nullptr;
}

// The forms of Unicode 9, which `tokenizers` has: code points that are newer stay, and nothing moves across
// them.
const icu::Normalizer2& normalizer(NormalForm form) {
  struct Forms {
    icu::UnicodeSet old;
    std::vector<icu::FilteredNormalizer2> forms;
    Forms() {
      UErrorCode error = U_ZERO_ERROR;
      old.applyPattern(icu::UnicodeString(u"[:age=9.0:]"), error);
      old.freeze();
      for (const NormalForm f : {NormalForm::kNfc, NormalForm::kNfd, NormalForm::kNfkc, NormalForm::kNfkd}) {
        const icu::Normalizer2* n = unfiltered(f, error);
        check_internal(U_SUCCESS(error) && n, "ICU carries its normalization data");
        forms.emplace_back(*n, old);
      }
    }
  };
  static const Forms all;
  return all.forms[static_cast<size_t>(form)];
}

}  // namespace

bool is_valid_utf8(std::string_view text) { return simdjson::validate_utf8(text.data(), text.size()); }

std::string replace_invalid_utf8(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size());
  for (size_t pos = 0; pos < bytes.size();) {
    const Sequence s = sequence_at(bytes, pos);
    out += s.valid ? bytes.substr(pos, s.length) : kReplacementCharacter;
    pos += s.length;
  }
  return out;
}

size_t valid_utf8_at(std::string_view bytes, size_t pos) {
  const Sequence s = sequence_at(bytes, pos);
  return s.valid ? s.length : 0;
}

size_t incomplete_utf8_suffix(std::string_view bytes) {
  const size_t first = bytes.size() > 3 ? bytes.size() - 3 : 0;
  for (size_t pos = first; pos < bytes.size(); ++pos) {
    if ((static_cast<unsigned char>(bytes[pos]) & 0xc0) == 0x80) continue;
    const Sequence s = sequence_at(bytes, pos);
    if (s.truncated && pos + s.length == bytes.size()) return s.length;
  }
  return 0;
}

char32_t next_code_point(std::string_view text, size_t& pos) {
  char32_t c;
  U8_NEXT_UNSAFE(text, pos, c);
  return c;
}

char32_t previous_code_point(std::string_view text, size_t& pos) {
  char32_t c;
  U8_PREV_UNSAFE(text, pos, c);
  return c;
}

void append_utf8(std::string& out, char32_t c) {
  char bytes[4];
  size_t n = 0;
  U8_APPEND_UNSAFE(bytes, n, c);
  out.append(bytes, n);
}

bool is_white_space(char32_t c) { return u_isUWhiteSpace(static_cast<UChar32>(c)); }
bool is_number(char32_t c) { return (U_MASK(u_charType(static_cast<UChar32>(c))) & U_GC_N_MASK) != 0; }
bool is_word(char32_t c) {
  const auto u = static_cast<UChar32>(c);
  return u_isUAlphabetic(u) || (U_MASK(u_charType(u)) & (U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK)) != 0 ||
         u_hasBinaryProperty(u, UCHAR_JOIN_CONTROL);
}

namespace {

// `tokenizers` reads categories from tables of Unicode 8 (BERT, punctuation) and 9 (accents, normalization),
// in which later code points are not assigned; and of the older ones some had another category.
bool is_older_than(char32_t c, uint8_t major) {
  if (c < 0x80) return true;
  UVersionInfo age;
  u_charAge(static_cast<UChar32>(c), age);
  return age[0] < major;
}
bool in_category(char32_t c, uint32_t mask) {
  return (U_MASK(u_charType(static_cast<UChar32>(c))) & mask) != 0;
}

}  // namespace

bool is_punctuation(char32_t c) {
  if (c < 0x80 && std::string_view("$+<=>^`|~").find(static_cast<char>(c)) != std::string_view::npos)
    return true;
  return (in_category(c, U_GC_P_MASK) && is_older_than(c, 9)) || c == 0x166d || c == 0x111c9;
}
bool is_mark(char32_t c) {
  return (in_category(c, U_GC_M_MASK) && is_older_than(c, 10) && c != 0x111c9) || c == 0x1cf2 || c == 0x1cf3;
}
bool is_nonspacing_mark(char32_t c) {
  if (c == 0x1885 || c == 0x1886 || c == 0xa9bd || c == 0x111c9) return false;
  return (in_category(c, U_GC_MN_MASK) && is_older_than(c, 9)) || c == 0x1734;
}
bool is_other(char32_t c) {
  return in_category(c, U_GC_CC_MASK | U_GC_CF_MASK | U_GC_CO_MASK | U_GC_CS_MASK) && is_older_than(c, 9);
}

int script_of(char32_t c) {
  if (!is_older_than(c, 10)) return USCRIPT_UNKNOWN;
  if (c == 0x61c) return USCRIPT_COMMON;  // Arabic since
  UErrorCode error = U_ZERO_ERROR;
  return uscript_getScript(static_cast<UChar32>(c), &error);
}
const int kScriptHan = USCRIPT_HAN, kScriptHiragana = USCRIPT_HIRAGANA, kScriptKatakana = USCRIPT_KATAKANA,
          kScriptUnknown = USCRIPT_UNKNOWN;

std::string normalize_unicode(std::string_view text, NormalForm form) {
  if (is_ascii(text)) return std::string(text);          // ASCII is its own normal form
  if (text.size() > static_cast<size_t>(INT32_MAX / 4))  // ICU counts in 32 bits, and forms can grow
    fail(Code::kBadArgument, "text to normalize: expected at most {} bytes, got {}", INT32_MAX / 4,
         text.size());
  std::string out;
  icu::StringByteSink<std::string> sink(&out, static_cast<int32_t>(text.size()));
  UErrorCode error = U_ZERO_ERROR;
  normalizer(form).normalizeUTF8(0, icu::StringPiece(text.data(), static_cast<int32_t>(text.size())), sink,
                                 nullptr, error);
  check_internal(U_SUCCESS(error), "ICU normalizes valid UTF-8");
  return out;
}

std::string lowercase_unicode(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t pos = 0; pos < text.size();) {
    const char32_t c = next_code_point(text, pos);
    if (c == 0x130) {  // the one code point whose full lower case has two: i and a combining dot
      out += "i\xCC\x87";
    } else {
      append_utf8(out, static_cast<char32_t>(u_tolower(static_cast<UChar32>(c))));
    }
  }
  return out;
}

}  // namespace awq
