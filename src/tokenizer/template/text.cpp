#include "tokenizer/template/text.h"

#include <fmt/core.h>
#include <unicode/locid.h>
#include <unicode/uchar.h>
#include <unicode/unistr.h>

#include <algorithm>

#include "tokenizer/unicode.h"

namespace awq::chat_template {
namespace {

icu::UnicodeString to_icu(std::string_view text) {
  return icu::UnicodeString::fromUTF8(icu::StringPiece(text.data(), static_cast<int32_t>(text.size())));
}

std::string from_icu(const icu::UnicodeString& text) {
  std::string out;
  text.toUTF8String(out);
  return out;
}

bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

bool is_cased(char32_t c) {
  const auto point = static_cast<UChar32>(c);
  return u_hasBinaryProperty(point, UCHAR_LOWERCASE) || u_hasBinaryProperty(point, UCHAR_UPPERCASE) ||
         u_charType(point) == U_TITLECASE_LETTER;
}

// The titlecase form of one code point: U+00DF becomes "Ss".
std::string title_point(std::string_view point) {
  icu::UnicodeString one = to_icu(point);
  one.toTitle(nullptr, icu::Locale::getRoot(), U_TITLECASE_NO_LOWERCASE | U_TITLECASE_NO_BREAK_ADJUSTMENT);
  return from_icu(one);
}

}  // namespace

int64_t count_points(std::string_view text) {
  return std::count_if(text.begin(), text.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xc0U) != 0x80U; });
}

size_t point_length(std::string_view text, size_t at) {
  return std::min(utf8_length(text[at]), text.size() - at);
}

size_t point_offset(std::string_view text, int64_t point) {
  size_t at = 0;
  while (point-- > 0 && at < text.size()) at += point_length(text, at);
  return at;
}

std::string_view substring(std::string_view text, int64_t begin_point, int64_t end_point) {
  const size_t begin = point_offset(text, begin_point);
  const size_t length = point_offset(text.substr(begin), end_point - begin_point);
  return text.substr(begin, length);
}

char32_t point_at(std::string_view text, size_t at) { return next_code_point(text, at); }

bool is_space(char32_t c) { return (c >= 0x1c && c <= 0x1f) || c == 0x85 ? true : is_white_space(c); }

bool is_printable(char32_t c) {
  if (c == ' ') return true;
  switch (u_charType(static_cast<UChar32>(c))) {
    case U_UNASSIGNED:
    case U_CONTROL_CHAR:
    case U_FORMAT_CHAR:
    case U_PRIVATE_USE_CHAR:
    case U_SURROGATE:
    case U_SPACE_SEPARATOR:
    case U_LINE_SEPARATOR:
    case U_PARAGRAPH_SEPARATOR:
      return false;
    default:
      return true;
  }
}

std::string quoted(std::string_view text) {
  const bool single = text.find('\'') == std::string_view::npos || text.find('"') != std::string_view::npos;
  const char quote = single ? '\'' : '"';
  std::string out(1, quote);
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const char32_t c = next_code_point(text, at);
    if (c == static_cast<char32_t>(quote) || c == '\\')
      out += '\\', out += static_cast<char>(c);
    else if (c == '\n')
      out += "\\n";
    else if (c == '\r')
      out += "\\r";
    else if (c == '\t')
      out += "\\t";
    else if (is_printable(c))
      out += text.substr(begin, at - begin);
    else
      out += c < 0x100     ? fmt::format("\\x{:02x}", static_cast<uint32_t>(c))
             : c < 0x10000 ? fmt::format("\\u{:04x}", static_cast<uint32_t>(c))
                           : fmt::format("\\U{:08x}", static_cast<uint32_t>(c));
  }
  return out + quote;
}

namespace {

template <class Member>
std::string_view strip(std::string_view text, Side side, const Member& member) {
  if (static_cast<int>(side) & 1)
    for (size_t at = 0; at < text.size(); at = 0) {
      if (!member(next_code_point(text, at))) break;
      text.remove_prefix(at);
    }
  if (static_cast<int>(side) & 2)
    for (size_t at = text.size(); at > 0; at = text.size()) {
      if (!member(previous_code_point(text, at))) break;
      text = text.substr(0, at);
    }
  return text;
}

}  // namespace

std::string_view strip_space(std::string_view text, Side side) { return strip(text, side, is_space); }

std::string_view strip_chars(std::string_view text, std::string_view chars, Side side) {
  std::vector<char32_t> set;
  for (size_t at = 0; at < chars.size();) set.push_back(next_code_point(chars, at));
  std::sort(set.begin(), set.end());
  return strip(text, side, [&](char32_t c) { return std::binary_search(set.begin(), set.end(), c); });
}

std::string upper(std::string_view text) {
  if (!is_ascii(text)) return from_icu(to_icu(text).toUpper(icu::Locale::getRoot()));
  std::string out(text);
  for (char& c : out)
    if (c >= 'a' && c <= 'z') c = static_cast<char>(c - 32);
  return out;
}

std::string lower(std::string_view text) {
  if (!is_ascii(text)) return from_icu(to_icu(text).toLower(icu::Locale::getRoot()));
  std::string out(text);
  for (char& c : out)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + 32);
  return out;
}

std::string capitalize(std::string_view text) {
  if (text.empty()) return {};
  const size_t first = point_length(text, 0);
  // The whole is lowered, not the rest: a final sigma depends on what stands before it.
  const std::string low = lower(text);
  const std::string low_first = lower(text.substr(0, first));
  return title_point(text.substr(0, first)) + low.substr(std::min(low.size(), low_first.size()));
}

std::string title(std::string_view text) {
  std::string out;
  if (is_ascii(text)) {
    bool inside = false;
    for (const char c : lower(text)) {
      const bool letter = c >= 'a' && c <= 'z';
      out += letter && !inside ? static_cast<char>(c - 32) : c;
      inside = letter;
    }
    return out;
  }
  for (size_t at = 0; at < text.size();) {
    size_t end = at;  // a run of letters is lowered as one: a final sigma depends on its neighbours
    while (end < text.size() && is_cased(point_at(text, end))) end += point_length(text, end);
    const size_t first = point_length(text, at);
    if (end == at) {
      out += title_point(text.substr(at, first));
      at += first;
      continue;
    }
    const std::string run = lower(text.substr(at, end - at));
    out += title_point(text.substr(at, first)) + run.substr(lower(text.substr(at, first)).size());
    at = end;
  }
  return out;
}

std::string casefold(std::string_view text) { return from_icu(to_icu(text).foldCase()); }

std::string swapcase(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const size_t length = point_length(text, at);
    const std::string_view point = text.substr(at, length);
    const auto c = static_cast<UChar32>(point_at(text, at));
    // A sigma ends a word where a letter stands before it and none behind it.
    size_t before = at;
    const bool follows = at > 0 && is_cased(previous_code_point(text, before));
    const bool ends = at + length >= text.size() || !is_cased(point_at(text, at + length));
    out += c == 0x3a3 && follows && ends             ? std::string("\u03c2")
           : u_hasBinaryProperty(c, UCHAR_UPPERCASE) ? lower(point)
           : u_hasBinaryProperty(c, UCHAR_LOWERCASE) ? upper(point)
                                                     : std::string(point);
    at += length;
  }
  return out;
}

std::vector<std::string_view> split_space(std::string_view text, int64_t limit, bool from_right) {
  std::vector<std::string_view> out;
  const Side near = from_right ? Side::kRight : Side::kLeft;
  for (text = strip_space(text, near); !text.empty(); text = strip_space(text, near)) {
    if (limit >= 0 && static_cast<int64_t>(out.size()) == limit) {
      out.push_back(text);
      break;
    }
    if (from_right) {
      size_t begin = text.size();
      for (size_t at = begin; at > 0; begin = at)
        if (is_space(previous_code_point(text, at))) break;
      out.push_back(text.substr(begin));
      text = text.substr(0, begin);
    } else {
      size_t end = 0;
      for (size_t at = 0; at < text.size(); end = at)
        if (is_space(next_code_point(text, at))) break;
      out.push_back(text.substr(0, end));
      text.remove_prefix(end);
    }
  }
  if (from_right) std::reverse(out.begin(), out.end());
  return out;
}

std::vector<std::string_view> split_at(std::string_view text, std::string_view separator, int64_t limit,
                                       bool from_right) {
  std::vector<std::string_view> out;
  while (limit < 0 || static_cast<int64_t>(out.size()) < limit) {
    const size_t at = from_right ? text.rfind(separator) : text.find(separator);
    if (at == std::string_view::npos) break;
    out.push_back(from_right ? text.substr(at + separator.size()) : text.substr(0, at));
    text = from_right ? text.substr(0, at) : text.substr(at + separator.size());
  }
  out.push_back(text);
  if (from_right) std::reverse(out.begin(), out.end());
  return out;
}

std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends) {
  const auto ends_line = [](char32_t c) {
    return (c >= 0x0a && c <= 0x0d) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 || c == 0x2029;
  };
  std::vector<std::string_view> out;
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = at;
    const char32_t c = next_code_point(text, at);
    if (!ends_line(c)) continue;
    if (c == '\r' && at < text.size() && text[at] == '\n') ++at;
    out.push_back(text.substr(begin, (keep_ends ? at : end) - begin));
    begin = at;
  }
  if (begin < text.size()) out.push_back(text.substr(begin));
  return out;
}

int64_t count_occurrences(std::string_view text, std::string_view part) {
  if (part.empty()) return count_points(text) + 1;
  int64_t n = 0;
  for (size_t at = text.find(part); at != std::string_view::npos; at = text.find(part, at + part.size())) ++n;
  return n;
}

std::string replace_all(std::string_view text, std::string_view from, std::string_view to, int64_t limit) {
  std::string out;
  size_t at = 0;
  if (from.empty()) {  // before each character, and at the end
    for (; at < text.size() && limit != 0; --limit) {
      const size_t length = point_length(text, at);
      out += to;
      out += text.substr(at, length);
      at += length;
    }
    out += text.substr(at);
    if (limit != 0) out += to;
    return out;
  }
  for (; limit != 0; --limit) {
    const size_t found = text.find(from, at);
    if (found == std::string_view::npos) break;
    out += text.substr(at, found - at);
    out += to;
    at = found + from.size();
  }
  out += text.substr(at);
  return out;
}

namespace {

bool point_has(char32_t c, Property property) {
  const auto point = static_cast<UChar32>(c);
  const auto numeric = [&] { return u_getIntPropertyValue(point, UCHAR_NUMERIC_TYPE); };
  switch (property) {
    case Property::kAlpha:
      return (U_GET_GC_MASK(point) & U_GC_L_MASK) != 0;
    case Property::kDecimal:
      return numeric() == U_NT_DECIMAL;
    case Property::kDigit:
      return numeric() == U_NT_DECIMAL || numeric() == U_NT_DIGIT;
    case Property::kNumeric:
      return numeric() != U_NT_NONE;
    case Property::kAlnum:
      return (U_GET_GC_MASK(point) & U_GC_L_MASK) != 0 || numeric() != U_NT_NONE;
    case Property::kSpace:
      return is_space(c);
    case Property::kAscii:
      return c < 0x80;
    case Property::kPrintable:
      return is_printable(c);
    default:
      return false;
  }
}

// isupper, islower: at least one cased character, and none of the other case.
bool all_cased(std::string_view text, UProperty wanted, UProperty other) {
  bool seen = false;
  for (size_t at = 0; at < text.size();) {
    const auto c = static_cast<UChar32>(next_code_point(text, at));
    if (u_hasBinaryProperty(c, other) || u_charType(c) == U_TITLECASE_LETTER) return false;
    seen = seen || u_hasBinaryProperty(c, wanted);
  }
  return seen;
}

bool is_title(std::string_view text) {
  bool seen = false, inside = false;
  for (size_t at = 0; at < text.size();) {
    const char32_t c = next_code_point(text, at);
    const auto point = static_cast<UChar32>(c);
    const bool large = u_hasBinaryProperty(point, UCHAR_UPPERCASE) || u_charType(point) == U_TITLECASE_LETTER;
    if (large && inside) return false;
    if (!large && is_cased(c) && !inside) return false;
    inside = is_cased(c);
    seen = seen || inside;
  }
  return seen;
}

bool is_identifier(std::string_view text) {
  if (text.empty()) return false;
  for (size_t at = 0; at < text.size();) {
    const bool first = at == 0;
    const auto c = static_cast<UChar32>(next_code_point(text, at));
    if (c != '_' && !u_hasBinaryProperty(c, first ? UCHAR_XID_START : UCHAR_XID_CONTINUE)) return false;
  }
  return true;
}

}  // namespace

bool has_property(std::string_view text, Property property) {
  switch (property) {
    case Property::kUpper:
      return all_cased(text, UCHAR_UPPERCASE, UCHAR_LOWERCASE);
    case Property::kLower:
      return all_cased(text, UCHAR_LOWERCASE, UCHAR_UPPERCASE);
    case Property::kTitle:
      return is_title(text);
    case Property::kIdentifier:
      return is_identifier(text);
    default:
      break;
  }
  for (size_t at = 0; at < text.size();)
    if (!point_has(next_code_point(text, at), property)) return false;
  return !text.empty() || property == Property::kAscii || property == Property::kPrintable;
}

int64_t count_words(std::string_view text) {
  int64_t words = 0;
  bool inside = false;
  for (size_t at = 0; at < text.size();) {
    const char32_t c = next_code_point(text, at);
    const bool word = c == '_' || point_has(c, Property::kAlnum);
    words += word && !inside;
    inside = word;
  }
  return words;
}

std::string escape_html(std::string_view text) {
  std::string out;
  for (const char c : text) switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&#34;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  return out;
}

}  // namespace awq::chat_template
