// The words by which users say how a model is loaded and run: the command line and Python take the same.
#pragma once
#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "model/model.h"

namespace awq {

template <class T>
struct Word {
  std::string_view text;
  T meaning;
};

inline constexpr std::array<Word<Precision>, 3> kPrecisionWords{
    {{"fast", Precision::kFast}, {"exact", Precision::kExact}, {"bf16", Precision::kBf16}}};
inline constexpr std::array<Word<LoadIn>, 3> kLoadInWords{
    {{"nf4", LoadIn::kNf4}, {"rtn", LoadIn::kRtn}, {"int8", LoadIn::kInt8}}};
inline constexpr std::array<Word<Device>, 3> kDeviceWords{
    {{"auto", Device::kCpu}, {"cpu", Device::kCpu}, {"cuda", Device::kCuda}}};
// Of keys and values of earlier tokens.
inline constexpr std::array<Word<DType>, 4> kKvDtypeWords{
    {{"float16", DType::kF16}, {"bfloat16", DType::kBF16}, {"float32", DType::kF32}, {"int8", DType::kI8}}};
inline constexpr std::array<int, 3> kHeadBits{0, 4, 8};

template <class T, size_t N>
std::vector<std::string> texts_of(const std::array<Word<T>, N>& words) {
  std::vector<std::string> texts;
  for (const auto& word : words) texts.emplace_back(word.text);
  return texts;
}

// What a word stands for. kBadArgument names those there are.
Precision precision_named(std::string_view word);
LoadIn load_in_named(std::string_view word);  // "" is kStored
Device device_named(std::string_view word);
DType kv_dtype_named(std::string_view word);
// kBadArgument for bits that are none of kHeadBits.
void check_head_bits(int bits);

}  // namespace awq
