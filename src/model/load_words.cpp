#include "model/load_words.h"

#include <algorithm>

#include "base/error.h"

namespace awq {
namespace {

// "a, b or c"
template <class Range>
std::string alternatives(const Range& values) {
  std::string out;
  for (size_t i = 0; i < values.size(); ++i)
    out += fmt::format("{}{}", i == 0 ? "" : i + 1 < values.size() ? ", " : " or ", values[i]);
  return out;
}

template <class T, size_t N>
T meaning_of(std::string_view what, const std::array<Word<T>, N>& words, std::string_view given) {
  const auto it =
      std::find_if(words.begin(), words.end(), [&](const Word<T>& word) { return word.text == given; });
  if (it == words.end())
    fail(Code::kBadArgument, "{}: expected {}, got '{}'", what, alternatives(texts_of(words)), given);
  return it->meaning;
}

}  // namespace

Precision precision_named(std::string_view word) { return meaning_of("precision", kPrecisionWords, word); }

LoadIn load_in_named(std::string_view word) {
  return word.empty() ? LoadIn::kStored : meaning_of("load_in", kLoadInWords, word);
}

Device device_named(std::string_view word) { return meaning_of("device", kDeviceWords, word); }

DType kv_dtype_named(std::string_view word) { return meaning_of("kv_dtype", kKvDtypeWords, word); }

void check_head_bits(int bits) {
  if (std::find(kHeadBits.begin(), kHeadBits.end(), bits) == kHeadBits.end())
    fail(Code::kBadArgument, "head_bits: expected {}, got {}", alternatives(kHeadBits), bits);
}

}  // namespace awq
