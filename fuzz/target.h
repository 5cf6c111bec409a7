// What the targets share. A target hands bytes to one parser of the library. awq::Error is the right answer
// to bad input; a crash, a leak, any other exception and a broken invariant are bugs.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/mmap.h"

namespace awq::fuzz {

inline void require(bool holds) {
  if (!holds) __builtin_trap();
}

// Whether `parse` accepted. Errors must be short, and no bug of ours; cli/ escapes the text of files in them.
template <class Parse>
bool accepts(Parse&& parse) {
  try {
    parse();
    return true;
  } catch (const Error& error) {
    require(error.code() != Code::kInternal);
    require(std::string_view(error.what()).size() < (size_t{1} << 20));
    return false;
  }
}

inline std::string_view text_of(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

inline std::shared_ptr<const MappedFile> file_of(std::string_view bytes) {
  static const std::filesystem::path name("file");
  return MappedFile::in_memory(name, std::as_bytes(std::span(bytes)));
}

// For LLVMFuzzerCustomMutator: changes one token of JSON text (a number, a string, a literal, a bracket) or
// copies one over another; every second time libFuzzer's own mutations, which know the dictionary. Returns
// the new size.
size_t mutate_json(uint8_t* data, size_t size, size_t max_size, unsigned seed);

// A number that often lies at an edge.
uint64_t interesting_number(uint64_t seed);

}  // namespace awq::fuzz

extern "C" {
int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);
}
