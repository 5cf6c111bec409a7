// ggml's tensor types: sizes of their blocks and what the bytes mean (docs/formats.md, section h).
#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "tensor/tensor.h"

namespace awq {

struct GgmlType {
  uint32_t id;                 // as stored
  const char* name;            // "Q4_1"
  int block;                   // weights per block; 1 for plain types
  int block_bytes;             // bytes per block
  std::optional<DType> dtype;  // for plain types
  // n weights (a multiple of block) at src (any alignment) to float; null when this build cannot read the
  // type.
  void (*dequantize)(const std::byte* src, float* dst, int64_t n);

  double bits_per_weight() const { return 8.0 * block_bytes / block; }
  bool plain() const { return dtype.has_value(); }
};

// nullptr when the id is unknown, so that not even the size of a tensor can be told.
const GgmlType* find_ggml_type(uint32_t id);
const GgmlType* find_ggml_type(std::string_view name);
std::string readable_ggml_types();  // "F32, F16, BF16, Q4_0, ...": those with dequantize, for error messages

// n weights of `type` as float. Throws kUnsupported naming `where`, the type, and the readable ones.
void dequantize_block_type(const GgmlType& type, const std::byte* src, float* dst, int64_t n,
                           const std::string& where);

}  // namespace awq
