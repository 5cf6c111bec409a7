#include "base/printable.h"

#include <fmt/core.h>

namespace awq {
namespace {

// Length of the valid UTF-8 sequence at the start of `s` (2..4 bytes), or 0.
size_t utf8_sequence(std::string_view s) {
  const auto byte = [&](size_t i) { return i < s.size() ? static_cast<unsigned char>(s[i]) : 0; };
  const auto tail = [&](size_t i) { return (byte(i) & 0xc0) == 0x80; };
  const unsigned char a = byte(0);
  if (a >= 0xc2 && a <= 0xdf && tail(1))
    return a == 0xc2 && byte(1) < 0xa0 ? 0 : 2;  // C1 controls are escaped
  if (a >= 0xe0 && a <= 0xef && tail(1) && tail(2)) {
    if ((a == 0xe0 && byte(1) < 0xa0) || (a == 0xed && byte(1) > 0x9f)) return 0;  // overlong, surrogate
    if (a == 0xe2 && byte(1) == 0x80 && (byte(2) == 0xa8 || byte(2) == 0xa9)) return 0;  // line separators
    return 3;
  }
  if (a >= 0xf0 && a <= 0xf4 && tail(1) && tail(2) && tail(3)) {
    if ((a == 0xf0 && byte(1) < 0x90) || (a == 0xf4 && byte(1) > 0x8f)) return 0;
    return 4;
  }
  return 0;
}

}  // namespace

std::string printable(std::string_view text, size_t limit) {
  std::string out;
  size_t i = 0;
  while (i < text.size()) {
    const auto c = static_cast<unsigned char>(text[i]);
    size_t length = c >= 0x20 && c < 0x7f ? 1 : utf8_sequence(text.substr(i));
    if (length == 0) {
      out += fmt::format("\\x{:02x}", c);
      length = 1;
    } else {
      out += text.substr(i, length);
    }
    i += length;
    if (out.size() >= limit && i < text.size()) return out + "...";
  }
  return out;
}

}  // namespace awq
