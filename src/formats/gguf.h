// GGUF version 2 and 3: typed key/values and named tensors in ggml's types (docs/formats.md, section h), in
// one file or split over NAME-00001-of-000NN.gguf. What a name means is not known here.
#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/mmap.h"
#include "formats/ggml_types.h"
#include "tensor/tensor.h"

namespace awq {

enum class GgufKind : uint32_t {
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64
};
const char* gguf_kind_name(GgufKind kind);

// One value; text and bytes lie in the mapping.
struct GgufValue {
  GgufKind kind = GgufKind::kU8;
  std::span<const std::byte> bytes;       // scalars, and arrays of scalars (packed, any alignment)
  std::string_view text;                  // kString
  GgufKind element = GgufKind::kU8;       // kArray: kind of the elements, never kArray
  int64_t count = 0;                      // kArray
  std::vector<std::string_view> strings;  // kArray of kString
};

struct GgufTensor {
  std::string name;
  const GgmlType* type = nullptr;
  Shape shape;         // slowest dimension first: [rows, columns], the reverse of the file's order
  size_t file = 0;     // index into files()
  int64_t offset = 0;  // bytes from the start of that file
  int64_t bytes = 0;
};

class GgufFile {
 public:
  // Maps the file (and, when it is one of a split set, all of the set) and reads the headers. Everything is
  // checked: after open() all keys and tensors lie inside their files. Throws kNotFound, kIo, kBadFile or
  // kUnsupported, naming file and offset, tensor or key.
  static std::shared_ptr<const GgufFile> open(const std::filesystem::path& path);
  // The same for the files of a set, in order.
  static std::shared_ptr<const GgufFile> parse(std::vector<std::shared_ptr<const MappedFile>> set);

  const std::filesystem::path& path() const { return files_[0]->path(); }
  const std::vector<std::shared_ptr<const MappedFile>>& files() const { return files_; }
  int version() const { return version_; }
  const std::vector<std::pair<std::string, GgufValue>>& values() const { return values_; }  // in file order
  const std::vector<GgufTensor>& tensors() const { return tensors_; }                       // in file order
  const GgufTensor* find(std::string_view name) const;

  // Values by key. Empty when the key is absent; kBadFile naming the key, the kind expected and the kind
  // found.
  const GgufValue* value(std::string_view key) const;
  std::optional<int64_t> integer(std::string_view key) const;  // any integer kind
  std::optional<double> real(std::string_view key) const;  // f32 as the shortest decimal that gives it back
  std::optional<bool> boolean(std::string_view key) const;
  std::optional<std::string> text(std::string_view key) const;
  std::vector<std::string> texts(std::string_view key) const;  // {} when absent, as all arrays
  std::vector<int64_t> integers(std::string_view key) const;   // any integer or bool kind
  std::vector<float> reals(std::string_view key) const;

  std::span<const std::byte> bytes(const GgufTensor& tensor) const;

 private:
  friend class GgufReader;
  [[noreturn]] void wrong_kind(std::string_view key, const char* expected, const GgufValue& value) const;
  std::vector<std::shared_ptr<const MappedFile>> files_;
  int version_ = 0;
  std::vector<std::pair<std::string, GgufValue>> values_;
  std::unordered_map<std::string, size_t> value_index_;
  std::vector<GgufTensor> tensors_;
  std::unordered_map<std::string, size_t> tensor_index_;
};

}  // namespace awq
