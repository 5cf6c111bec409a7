#include "tensor/tensor.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>

#include "base/checked.h"
#include "base/half.h"
#include "base/thread_pool.h"

namespace awq {
namespace {

constexpr struct {
  DType dtype;
  const char* name;
  int size;
  bool is_float;
} kTypes[] = {
    {DType::kF32, "F32", 4, true},       {DType::kF16, "F16", 2, true},         {DType::kBF16, "BF16", 2, true},
    {DType::kF64, "F64", 8, true},       {DType::kF8E4M3, "F8_E4M3", 1, true},  {DType::kF8E5M2, "F8_E5M2", 1, true},
    {DType::kI64, "I64", 8, false},      {DType::kI32, "I32", 4, false},        {DType::kI16, "I16", 2, false},
    {DType::kI8, "I8", 1, false},        {DType::kU64, "U64", 8, false},        {DType::kU32, "U32", 4, false},
    {DType::kU16, "U16", 2, false},      {DType::kU8, "U8", 1, false},          {DType::kBool, "BOOL", 1, false},
};

// OCP 8-bit float E4M3 (no infinity, NaN = 0x7f) and E5M2.
float f8_to_f32(uint8_t bits, int mantissa_bits, int bias, bool has_infinity) {
  const int exponent_bits = 7 - mantissa_bits;
  const int exponent = (bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const int mantissa = bits & ((1 << mantissa_bits) - 1);
  const float sign = bits & 0x80 ? -1.0f : 1.0f;
  if (exponent == (1 << exponent_bits) - 1) {
    if (has_infinity && mantissa == 0) return sign * std::numeric_limits<float>::infinity();
    if (has_infinity || mantissa == (1 << mantissa_bits) - 1) return std::numeric_limits<float>::quiet_NaN();
  }
  const float fraction = static_cast<float>(mantissa) / static_cast<float>(1 << mantissa_bits);
  return exponent == 0 ? sign * std::ldexp(fraction, 1 - bias) : sign * std::ldexp(1.0f + fraction, exponent - bias);
}

template <class T>
T read(const std::byte* p) {
  T value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

}  // namespace

int dtype_size(DType dtype) { return kTypes[static_cast<int>(dtype)].size; }
const char* dtype_name(DType dtype) { return kTypes[static_cast<int>(dtype)].name; }
bool is_float(DType dtype) { return kTypes[static_cast<int>(dtype)].is_float; }

int64_t numel(const Shape& shape) {
  int64_t n = 1;
  for (int64_t d : shape) n = checked_mul(n, d, "tensor shape");
  return n;
}

std::string shape_text(const Shape& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

std::shared_ptr<std::byte[]> allocate_aligned(int64_t bytes) {
  const size_t rounded = (static_cast<size_t>(std::max<int64_t>(bytes, 1)) + 63) / 64 * 64;
  auto* p = static_cast<std::byte*>(std::aligned_alloc(64, rounded));
  if (p == nullptr) fail(Code::kNoMemory, "out of memory: {} bytes wanted", bytes);
  return {p, [](std::byte* q) { std::free(q); }};
}

Tensor::Tensor(DType dtype, Shape shape) : dtype_(dtype), shape_(std::move(shape)), numel_(awq::numel(shape_)), writable_(true) {
  auto storage = allocate_aligned(checked_mul(numel_, dtype_size(dtype_), "tensor size"));
  data_ = storage.get();
  owner_ = std::move(storage);
}

Tensor::Tensor(DType dtype, Shape shape, const std::byte* data, std::shared_ptr<const void> owner)
    : dtype_(dtype), shape_(std::move(shape)), numel_(awq::numel(shape_)), data_(data), owner_(std::move(owner)) {}

Tensor Tensor::zeros(DType dtype, Shape shape) {
  Tensor t(dtype, std::move(shape));
  std::memset(t.mutable_bytes(), 0, static_cast<size_t>(t.nbytes()));
  return t;
}

Tensor Tensor::from(const std::vector<float>& values, Shape shape) {
  Tensor t(DType::kF32, std::move(shape));
  check_internal(t.numel() == static_cast<int64_t>(values.size()), "Tensor::from: size and shape differ");
  std::memcpy(t.mutable_bytes(), values.data(), values.size() * sizeof(float));
  return t;
}

std::byte* Tensor::mutable_bytes() {
  check_internal(writable_, "writing to a read-only tensor view");
  return const_cast<std::byte*>(data_);
}

void Tensor::check_element(size_t size) const {
  check_internal(static_cast<size_t>(dtype_size(dtype_)) == size, "tensor accessed with the wrong element size");
  check_internal(reinterpret_cast<uintptr_t>(data_) % size == 0, "typed access to a misaligned tensor");
}

Tensor Tensor::to_f32() const { return to(DType::kF32); }

Tensor Tensor::to(DType dtype) const {
  if (dtype == dtype_) return *this;
  Tensor out(dtype, shape_);
  std::byte* const to = out.mutable_bytes();
  constexpr int64_t kPart = 1 << 18, kStep = 1024;
  parallel_for((numel_ + kPart - 1) / kPart, [&](int64_t part) {
    const int64_t end = std::min(numel_, (part + 1) * kPart);
    if (dtype == DType::kF32)
      return convert_to_f32(dtype_, data_ + part * kPart * dtype_size(dtype_), reinterpret_cast<float*>(to) + part * kPart, end - part * kPart);
    float wide[kStep];
    for (int64_t i = part * kPart; i < end; i += kStep) {
      const int64_t n = std::min(kStep, end - i);
      convert_to_f32(dtype_, data_ + i * dtype_size(dtype_), wide, n);
      convert_from_f32(wide, dtype, to + i * dtype_size(dtype), n);
    }
  });
  return out;
}

Tensor Tensor::reshaped(Shape shape) const {
  check_internal(awq::numel(shape) == numel_, "reshape changes the number of elements");
  Tensor out = *this;
  out.shape_ = std::move(shape);
  return out;
}

Tensor Tensor::rows(int64_t begin, int64_t end) const {
  check_internal(rank() >= 1 && begin >= 0 && begin <= end && end <= shape_[0], "row range outside the tensor");
  Tensor out = *this;
  const int64_t row = shape_[0] == 0 ? 0 : numel_ / shape_[0];
  out.shape_[0] = end - begin;
  out.numel_ = row * (end - begin);
  out.data_ = data_ + row * begin * dtype_size(dtype_);
  return out;
}

Tensor Tensor::clone() const {
  Tensor out(dtype_, shape_);
  std::memcpy(out.mutable_bytes(), data_, static_cast<size_t>(nbytes()));
  return out;
}

void convert_to_f32(DType dtype, const std::byte* src, float* dst, int64_t n) {
  switch (dtype) {
    case DType::kF32: std::memcpy(dst, src, static_cast<size_t>(n) * 4); return;
    case DType::kF16:
      for (int64_t i = 0; i < n; ++i) dst[i] = fp16_to_f32(read<uint16_t>(src + 2 * i));
      return;
    case DType::kBF16:
      for (int64_t i = 0; i < n; ++i) dst[i] = bf16_to_f32(read<uint16_t>(src + 2 * i));
      return;
    case DType::kF64:
      for (int64_t i = 0; i < n; ++i) dst[i] = static_cast<float>(read<double>(src + 8 * i));
      return;
    case DType::kF8E4M3:
      for (int64_t i = 0; i < n; ++i) dst[i] = f8_to_f32(static_cast<uint8_t>(src[i]), 3, 7, false);
      return;
    case DType::kF8E5M2:
      for (int64_t i = 0; i < n; ++i) dst[i] = f8_to_f32(static_cast<uint8_t>(src[i]), 2, 15, true);
      return;
    default: fail(Code::kInternal, "internal error: {} is no float type", dtype_name(dtype));
  }
}

void convert_from_f32(const float* src, DType dtype, std::byte* dst, int64_t n) {
  auto* half = reinterpret_cast<uint16_t*>(dst);
  switch (dtype) {
    case DType::kF32: std::memcpy(dst, src, static_cast<size_t>(n) * 4); return;
    case DType::kF16:
      for (int64_t i = 0; i < n; ++i) half[i] = f32_to_fp16(src[i]);
      return;
    case DType::kBF16:
      for (int64_t i = 0; i < n; ++i) half[i] = f32_to_bf16(src[i]);
      return;
    default: fail(Code::kInternal, "internal error: cannot write floats as {}", dtype_name(dtype));
  }
}

}  // namespace awq
