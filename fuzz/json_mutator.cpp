#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include "target.h"

namespace awq::fuzz {
namespace {

struct Token {
  size_t begin, end;
};

// Strings, numbers, literals and single punctuation marks; broken JSON gives some tokens too.
std::vector<Token> tokens_of(std::string_view text) {
  std::vector<Token> out;
  constexpr std::string_view kSpace = " \t\r\n", kPunctuation = "{}[],:";
  for (size_t at = 0; at < text.size();) {
    if (kSpace.find(text[at]) != kSpace.npos) {
      ++at;
      continue;
    }
    size_t end = at + 1;
    if (text[at] == '"') {
      while (end < text.size() && text[end] != '"') end += text[end] == '\\' ? 2 : 1;
      end = std::min(end + 1, text.size());
    } else if (kPunctuation.find(text[at]) == kPunctuation.npos) {
      while (end < text.size() && kSpace.find(text[end]) == kSpace.npos &&
             kPunctuation.find(text[end]) == kPunctuation.npos)
        ++end;
    }
    out.push_back({at, end});
    at = end;
  }
  return out;
}

constexpr std::string_view kValues[] = {"0",
                                        "1",
                                        "-1",
                                        "2",
                                        "128",
                                        "4294967296",
                                        "9223372036854775807",
                                        "1e30",
                                        "-1e-9",
                                        "1e400",
                                        "18446744073709551615",
                                        "0.5",
                                        "null",
                                        "true",
                                        "false",
                                        "{}",
                                        "[]",
                                        "[[]]",
                                        "\"\"",
                                        "\"a\"",
                                        "\"\\u0000\"",
                                        "\"\\ud800\"",
                                        "[1,2]",
                                        "{\"a\":1}"};

size_t splice(uint8_t* data, size_t size, size_t max_size, Token place, std::string_view with) {
  const size_t tail = size - place.end, total = place.begin + with.size() + tail;
  if (total > max_size) return size;
  std::memmove(data + place.begin + with.size(), data + place.end, tail);
  std::memcpy(data + place.begin, with.data(), with.size());
  return total;
}

}  // namespace

uint64_t interesting_number(uint64_t seed) {
  constexpr uint64_t kEdges[] = {0,  1,  2,   3,   4,   7,   8,    16,    31,     32,
                                 63, 64, 127, 128, 255, 256, 4095, 65535, 1 << 20};
  const uint64_t edge = kEdges[seed / 8 % std::size(kEdges)];
  switch (seed % 8) {
    case 0:
      return ~edge;
    case 1:
      return (uint64_t{1} << 31) + edge;
    case 2:
      return (uint64_t{1} << 32) - edge;
    case 3:
      return (uint64_t{1} << 63) - edge;
    case 4:
      return uint64_t{1} << seed / 8 % 64;
    default:
      return edge;
  }
}

size_t mutate_json(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  std::minstd_rand rng(seed);
  if (size == 0 || rng() % 2 == 0) return LLVMFuzzerMutate(data, size, max_size);
  const std::string_view text = text_of(data, size);
  const std::vector<Token> tokens = tokens_of(text);
  if (tokens.empty()) return LLVMFuzzerMutate(data, size, max_size);
  const Token place = tokens[rng() % tokens.size()], other = tokens[rng() % tokens.size()];
  switch (rng() % 6) {
    case 0:
      return splice(data, size, max_size, place, std::to_string(interesting_number(rng())));
    case 1:
      return splice(data, size, max_size, place,
                    std::string(text.substr(other.begin, other.end - other.begin)));
    case 2:
      return splice(data, size, max_size, place, "");
    case 3: {  // a stretch of tokens once more, elsewhere
      const size_t end = std::min(size, std::max(place.end, other.end)),
                   begin = std::min(place.begin, other.begin);
      const Token at = tokens[rng() % tokens.size()];
      return splice(data, size, max_size, {at.begin, at.begin},
                    std::string(text.substr(begin, std::min<size_t>(end - begin, 200))));
    }
    default:
      return splice(data, size, max_size, place, kValues[rng() % std::size(kValues)]);
  }
}

}  // namespace awq::fuzz
