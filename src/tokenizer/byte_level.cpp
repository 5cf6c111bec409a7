#include "tokenizer/byte_level.h"

#include <array>

#include "tokenizer/unicode.h"

namespace awq {
namespace {

constexpr char32_t kAlphabetEnd = 0x144;  // 0x100 + the 68 bytes that do not stand for themselves

constexpr bool stands_for_itself(int b) {
  return (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
}

struct Tables {
  std::array<char32_t, 256> to_char{};
  std::array<int, kAlphabetEnd> to_byte{};
  constexpr Tables() {
    for (int& b : to_byte) b = -1;
    char32_t next = 0x100;
    for (int b = 0; b < 256; ++b) {
      to_char[b] = stands_for_itself(b) ? static_cast<char32_t>(b) : next++;
      to_byte[to_char[b]] = b;
    }
  }
};
constexpr Tables kTables;

}  // namespace

char32_t byte_level_char(unsigned char byte) { return kTables.to_char[byte]; }

std::string to_byte_level(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size() * 2);
  for (const char b : bytes) append_utf8(out, byte_level_char(static_cast<unsigned char>(b)));
  return out;
}

std::string from_byte_level(std::string_view token) {
  std::string out;
  out.reserve(token.size());
  for (size_t pos = 0; pos < token.size();) {
    const char32_t c = next_code_point(token, pos);
    const int byte = c < kAlphabetEnd ? kTables.to_byte[c] : -1;
    if (byte < 0) return std::string(token);
    out += static_cast<char>(byte);
  }
  return out;
}

}  // namespace awq
