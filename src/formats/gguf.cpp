#include "formats/gguf.h"

#include <fmt/format.h>

#include <bit>
#include <charconv>
#include <cmath>
#include <cstring>

#include "base/printable.h"

namespace awq {
namespace {

template <class T>
T element(std::span<const std::byte> bytes, int64_t i) {
  T value;
  std::memcpy(&value, bytes.data() + i * static_cast<int64_t>(sizeof(T)), sizeof(T));
  return value;
}

// Integer or bool element i; nothing for other kinds.
std::optional<int64_t> integer_at(GgufKind kind, std::span<const std::byte> bytes, int64_t i) {
  switch (kind) {
    case GgufKind::kU8:
    case GgufKind::kBool:
      return element<uint8_t>(bytes, i);
    case GgufKind::kI8:
      return element<int8_t>(bytes, i);
    case GgufKind::kU16:
      return element<uint16_t>(bytes, i);
    case GgufKind::kI16:
      return element<int16_t>(bytes, i);
    case GgufKind::kU32:
      return element<uint32_t>(bytes, i);
    case GgufKind::kI32:
      return element<int32_t>(bytes, i);
    case GgufKind::kU64: {
      const auto v = element<uint64_t>(bytes, i);
      return v <= INT64_MAX ? std::optional<int64_t>(static_cast<int64_t>(v)) : std::nullopt;
    }
    case GgufKind::kI64:
      return element<int64_t>(bytes, i);
    default:
      return std::nullopt;
  }
}

// 1e-5f is written as 1e-05, not as 9.999999747378752e-06.
double shortest(float f) {
  if (!std::isfinite(f)) return f;
  const std::string text = fmt::format("{}", f);
  double d = 0;
  std::from_chars(text.data(), text.data() + text.size(), d);
  return d;
}

}  // namespace

const char* gguf_kind_name(GgufKind kind) {
  static constexpr const char* kNames[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                           "bool", "string", "array", "u64", "i64", "f64"};
  return kNames[static_cast<size_t>(kind)];
}

const GgufTensor* GgufFile::find(std::string_view name) const {
  const auto it = tensor_index_.find(std::string(name));
  return it == tensor_index_.end() ? nullptr : &tensors_[it->second];
}

const GgufValue* GgufFile::value(std::string_view key) const {
  const auto it = value_index_.find(std::string(key));
  return it == value_index_.end() ? nullptr : &values_[it->second].second;
}

void GgufFile::wrong_kind(std::string_view key, const char* expected, const GgufValue& v) const {
  const std::string got = v.kind == GgufKind::kArray ? fmt::format("array of {}", gguf_kind_name(v.element))
                                                     : std::string(gguf_kind_name(v.kind));
  fail(Code::kBadFile, "{}: key '{}': expected {}, got {}", path().string(), printable(key), expected, got);
}

std::optional<int64_t> GgufFile::integer(std::string_view key) const {
  const GgufValue* v = value(key);
  if (!v) return std::nullopt;
  const auto n = v->kind == GgufKind::kBool ? std::nullopt : integer_at(v->kind, v->bytes, 0);
  if (!n) wrong_kind(key, "an integer of at most 63 bits", *v);
  return n;
}

std::optional<double> GgufFile::real(std::string_view key) const {
  const GgufValue* v = value(key);
  if (!v) return std::nullopt;
  double d = 0;
  if (v->kind == GgufKind::kF32)
    d = shortest(element<float>(v->bytes, 0));
  else if (v->kind == GgufKind::kF64)
    d = element<double>(v->bytes, 0);
  else
    wrong_kind(key, "a floating-point number", *v);
  if (!std::isfinite(d))
    fail(Code::kBadFile, "{}: key '{}': expected a finite number, got {}", path().string(), printable(key),
         d);
  return d;
}

std::optional<bool> GgufFile::boolean(std::string_view key) const {
  const GgufValue* v = value(key);
  if (!v) return std::nullopt;
  if (v->kind != GgufKind::kBool) wrong_kind(key, "bool", *v);
  return element<uint8_t>(v->bytes, 0) != 0;
}

std::optional<std::string> GgufFile::text(std::string_view key) const {
  const GgufValue* v = value(key);
  if (!v) return std::nullopt;
  if (v->kind != GgufKind::kString) wrong_kind(key, "string", *v);
  return std::string(v->text);
}

std::vector<std::string> GgufFile::texts(std::string_view key) const {
  const GgufValue* v = value(key);
  if (!v) return {};
  if (v->kind != GgufKind::kArray || v->element != GgufKind::kString) wrong_kind(key, "array of string", *v);
  return {v->strings.begin(), v->strings.end()};
}

std::vector<int64_t> GgufFile::integers(std::string_view key) const {
  const GgufValue* v = value(key);
  if (!v) return {};
  if (v->kind != GgufKind::kArray) wrong_kind(key, "array of integers", *v);
  std::vector<int64_t> out;
  for (int64_t i = 0; i < v->count; ++i) {
    const auto n = integer_at(v->element, v->bytes, i);
    if (!n) wrong_kind(key, "array of integers", *v);
    out.push_back(*n);
  }
  return out;
}

std::vector<float> GgufFile::reals(std::string_view key) const {
  const GgufValue* v = value(key);
  if (!v) return {};
  if (v->kind != GgufKind::kArray || (v->element != GgufKind::kF32 && v->element != GgufKind::kF64))
    wrong_kind(key, "array of floating-point numbers", *v);
  std::vector<float> out;
  for (int64_t i = 0; i < v->count; ++i)
    out.push_back(v->element == GgufKind::kF32 ? element<float>(v->bytes, i)
                                               : static_cast<float>(element<double>(v->bytes, i)));
  return out;
}

std::span<const std::byte> GgufFile::bytes(const GgufTensor& tensor) const {
  return files_[tensor.file]->bytes().subspan(static_cast<size_t>(tensor.offset),
                                              static_cast<size_t>(tensor.bytes));
}

}  // namespace awq
