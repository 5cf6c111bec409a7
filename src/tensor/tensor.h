// Dense tensors: a dtype, a shape, and bytes that are owned or borrowed from a mapping. A quantization format
// is never a dtype (see weights/quant_weight.h).
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"

namespace awq {

enum class DType : uint8_t { kF32, kF16, kBF16, kF64, kF8E4M3, kF8E5M2, kI64, kI32, kI16, kI8, kU64, kU32, kU16, kU8, kBool };
int dtype_size(DType dtype);          // bytes per element
const char* dtype_name(DType dtype);  // safetensors' spelling: "F32", "BF16", ...
bool is_float(DType dtype);           // F32, F16, BF16, F64 and the fp8 types

using Shape = std::vector<int64_t>;
int64_t numel(const Shape& shape);            // 1 for a scalar; throws kBadFile on overflow
std::string shape_text(const Shape& shape);  // "[576, 1536]"

// 64-byte aligned memory that throws Error{kNoMemory}, saying how much was wanted.
std::shared_ptr<std::byte[]> allocate_aligned(int64_t bytes);

class Tensor {
 public:
  Tensor() = default;
  // Owned and uninitialised.
  Tensor(DType dtype, Shape shape);
  // A view: `owner` keeps the bytes alive (a mapping, another tensor's storage).
  Tensor(DType dtype, Shape shape, const std::byte* data, std::shared_ptr<const void> owner);
  static Tensor zeros(DType dtype, Shape shape);
  static Tensor from(const std::vector<float>& values, Shape shape);

  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  int64_t dim(size_t i) const { return shape_.at(i); }
  size_t rank() const { return shape_.size(); }
  int64_t numel() const { return numel_; }
  int64_t nbytes() const { return numel_ * dtype_size(dtype_); }
  bool empty() const { return data_ == nullptr; }

  const std::byte* bytes() const { return data_; }
  std::byte* mutable_bytes();  // throws kInternal on a view of read-only memory
  // Typed access; throws kInternal when T's size differs from the dtype's. T is float for F32, uint16_t for
  // F16 and BF16, int32_t for I32, ...
  template <class T>
  const T* data() const {
    check_element(sizeof(T));
    return reinterpret_cast<const T*>(data_);
  }
  template <class T>
  T* mutable_data() {
    check_element(sizeof(T));
    return reinterpret_cast<T*>(mutable_bytes());
  }
  const float* f32() const { return data<float>(); }
  float* f32() { return mutable_data<float>(); }

  Tensor to_f32() const;            // a copy unless already F32; accepts F32, F16, BF16, F64, fp8
  Tensor to(DType dtype) const;     // among F32, F16, BF16 (round to nearest even); a copy unless equal
  Tensor reshaped(Shape shape) const;
  Tensor rows(int64_t begin, int64_t end) const;  // a view of rows of a matrix (dim 0)
  Tensor clone() const;

 private:
  void check_element(size_t size) const;
  DType dtype_ = DType::kF32;
  Shape shape_;
  int64_t numel_ = 0;
  const std::byte* data_ = nullptr;
  bool writable_ = false;
  std::shared_ptr<const void> owner_;
};

// Converts n elements of `dtype` at `src` (any alignment) to float. Throws kInternal for non-float dtypes.
void convert_to_f32(DType dtype, const std::byte* src, float* dst, int64_t n);
void convert_from_f32(const float* src, DType dtype, std::byte* dst, int64_t n);

}  // namespace awq
