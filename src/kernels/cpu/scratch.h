// Memory that a thread keeps between calls, so that no kernel allocates after warm-up.
#pragma once
#include <algorithm>
#include <cstdint>
#include <memory>

#include "base/thread_pool.h"
#include "kernels/cpu/simd_table.h"
#include "tensor/tensor.h"

namespace awq {

namespace simd {

// Declare as `thread_local Scratch` inside the function that uses it: a function's scratch is free again when
// the function returns. 64-byte aligned, contents undefined.
class Scratch {
 public:
  float* floats(int64_t n) {
    if (n > capacity_) {
      memory_.reset();
      memory_ = allocate_aligned(n * static_cast<int64_t>(sizeof(float)));
      capacity_ = n;
    }
    return reinterpret_cast<float*>(memory_.get());
  }

 private:
  std::shared_ptr<std::byte[]> memory_;
  int64_t capacity_ = 0;
};

}  // namespace simd
// Not awq::Scratch itself: that name is the forward pass's buffers (model/model.h), and the linker would
// merge the two.
using simd::Scratch;

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// F32, F16 and BF16 only; throws kInternal otherwise.
inline simd::Elem elem_of(DType dtype) {
  check_internal(dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16,
                 "a kernel was given a tensor that is not F32, F16 or BF16");
  return dtype == DType::kF32   ? simd::Elem::kF32
         : dtype == DType::kF16 ? simd::Elem::kF16
                                : simd::Elem::kBF16;
}

}  // namespace awq
