#include "checkpoint/finite_scan.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/thread_pool.h"

namespace awq {
namespace {

// Eight bytes are tested at once: in every lane, (bits & mask) + step carries into the lane's top bit exactly
// when all bits of the mask are set. The mask is the exponent (all ones: infinity or NaN); for F8_E4M3, which
// has no infinity, exponent and mantissa. No lane carries into the next, since its sum is at most its top
// bit.
struct Lanes {
  uint64_t mask, step;
};

Lanes lanes(DType dtype) {
  constexpr uint64_t k8 = 0x0101010101010101, k16 = 0x0001000100010001, k32 = 0x0000000100000001;
  switch (dtype) {
    case DType::kF32:
      return {k32 * 0x7f800000, k32 * 0x00800000};
    case DType::kF64:
      return {0x7ff0000000000000, 0x0010000000000000};
    case DType::kF16:
      return {k16 * 0x7c00, k16 * 0x0400};
    case DType::kBF16:
      return {k16 * 0x7f80, k16 * 0x0080};
    case DType::kF8E4M3:
      return {k8 * 0x7f, k8};
    case DType::kF8E5M2:
      return {k8 * 0x7c, k8 * 0x04};
    default:
      return {0, 0};
  }
}

uint64_t top_bits(DType dtype) {
  switch (dtype_size(dtype)) {
    case 1:
      return 0x8080808080808080;
    case 2:
      return 0x8000800080008000;
    case 4:
      return 0x8000000080000000;
    default:
      return 0x8000000000000000;
  }
}

}  // namespace

namespace {

int64_t scan(DType dtype, const std::byte* data, int64_t n) {
  const auto [mask, step] = lanes(dtype);
  const uint64_t top = top_bits(dtype);
  const int64_t size = dtype_size(dtype), bytes = n * size;
  constexpr int64_t kChunk = 4096;
  for (int64_t begin = 0; begin < bytes; begin += kChunk) {
    const int64_t end = std::min(begin + kChunk, bytes);
    uint64_t found = 0;
    for (int64_t i = begin; i < end; i += 8) {
      uint64_t word = 0;  // zero lanes beyond the end are finite
      if (end - i >= 8)
        std::memcpy(&word, data + i, 8);
      else
        std::memcpy(&word, data + i, static_cast<size_t>(end - i));
      found |= (word & mask) + step;
    }
    if ((found & top) == 0) continue;
    for (int64_t i = begin / size;; ++i) {
      uint64_t element = 0;
      std::memcpy(&element, data + i * size, static_cast<size_t>(size));
      if (((element & mask) + step) & top & (~uint64_t{0} >> (64 - 8 * size))) return i;
    }
  }
  return -1;
}

}  // namespace

int64_t first_non_finite(DType dtype, const std::byte* data, int64_t n) {
  if (!is_float(dtype)) return -1;
  constexpr int64_t kPart = 1 << 22;
  std::vector<int64_t> found(static_cast<size_t>((n + kPart - 1) / kPart), -1);
  parallel_for(static_cast<int64_t>(found.size()), [&](int64_t part) {
    const int64_t at = scan(dtype, data + part * kPart * dtype_size(dtype), std::min(kPart, n - part * kPart));
    if (at >= 0) found[static_cast<size_t>(part)] = part * kPart + at;
  });
  const auto first = std::find_if(found.begin(), found.end(), [](int64_t at) { return at >= 0; });
  return first == found.end() ? -1 : *first;
}

}  // namespace awq
