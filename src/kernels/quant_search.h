// Private to kernels/: the unit of work of range_search and its variants per instruction set.
#pragma once
#include <algorithm>
#include <cstdint>

#include "base/half.h"
#include "tensor/tensor.h"

namespace awq::search {

constexpr int kLanes = 32;        // rows searched together
constexpr int kTile = 128;        // groups wider than this see B as block diagonal with tiles of this many columns
constexpr float kMinRange = 1e-5f;  // AutoAWQ's floor of a group's range, keeps scales above zero

enum class RangeMode : uint8_t { kMinMax, kAwqClip, kFull };

struct RangeGroup {
  const float* w = nullptr;      // [group][kLanes], 64-byte aligned
  const float* block = nullptr;  // B, unused for kMinMax's result but read; never null
  int64_t ldb = 0;
  int group = 0, max_code = 15;
  bool symmetric = false;
  DType scale_dtype = DType::kF16;
  RangeMode mode = RangeMode::kFull;
};

struct RangeResult {
  float* scale;    // [kLanes]
  uint8_t* zero;   // [kLanes]
  uint8_t* codes;  // [group][kLanes]
};

// To the nearest value of the dtype that is not zero: scales are positive and zero scales break loaders.
[[gnu::always_inline]] inline float round_scale_to(float s, DType dtype) {
  if (dtype == DType::kF16) return std::clamp(round_to_fp16(s), 0x1p-24f, 65504.0f);
  // Written as fp16 beside bf16 tensors: from 2^-17 on every bf16 value is an fp16 value too.
  if (dtype == DType::kBF16) return std::clamp(round_to_bf16(s), 0x1p-17f, 65280.0f);
  return std::max(s, 0x1p-126f);
}

// Per instruction set; minmax_error_row is for one row of in.w, see quant_search_impl.h.
#define AWQ_SEARCH_VARIANT(isa)                                                             \
  namespace isa {                                                                           \
  void search_range(const RangeGroup& group, float* scratch, const RangeResult& out);       \
  void minmax_error_row(const RangeGroup& in, int64_t cols, const float* c, const float* inverse_c, float* e); \
  }
AWQ_SEARCH_VARIANT(portable)
AWQ_SEARCH_VARIANT(avx2)
AWQ_SEARCH_VARIANT(avx512)
#undef AWQ_SEARCH_VARIANT

}  // namespace awq::search
