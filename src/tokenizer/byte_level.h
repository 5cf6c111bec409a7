// The byte-level alphabet of GPT-2 (Radford et al. 2019, encoder.py): each byte stands as one printable
// character, so that a vocabulary of bytes can be written as text. Printable Latin-1 bytes stand for
// themselves, the others, in order, for U+0100 and following.
#pragma once
#include <string>
#include <string_view>

namespace awq {

char32_t byte_level_char(unsigned char byte);
std::string to_byte_level(std::string_view bytes);
// The bytes of a token. A token with a character outside the alphabet (an added token) stands for its own
// text.
std::string from_byte_level(std::string_view token);

}  // namespace awq
