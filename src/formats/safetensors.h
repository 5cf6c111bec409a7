// safetensors: one file <-> named dense tensors (docs/formats.md, section i).
//
//   bytes 0..7    u64 little-endian: length n of the header
//   bytes 8..8+n  JSON object {name: {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__": {..}}
//   then          the data; offsets are relative to its start, tensors cover it without gap or overlap
#pragma once
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/mmap.h"
#include "tensor/tensor.h"

namespace awq {

struct SafetensorsEntry {
  std::string name;
  std::string dtype_name;      // as stored: "BF16", "F6_E2M3", ...
  std::optional<DType> dtype;  // empty for dtypes Tensor does not have (F4, F6, C64, ...)
  Shape shape;
  int64_t offset = 0;  // bytes from the start of the file
  int64_t bytes = 0;
};

class SafetensorsFile {
 public:
  // Maps the file and reads its header only. Every rule of the format is checked, duplicate names included:
  // after open() all entries lie inside the file. Throws kNotFound, kIo, or kBadFile naming file, tensor and
  // offset.
  static std::shared_ptr<const SafetensorsFile> open(const std::filesystem::path& path);
  static std::shared_ptr<const SafetensorsFile> parse(std::shared_ptr<const MappedFile> file);

  const std::filesystem::path& path() const { return file_->path(); }
  const std::shared_ptr<const MappedFile>& file() const { return file_; }
  const std::vector<SafetensorsEntry>& entries() const { return entries_; }  // by offset
  const SafetensorsEntry* find(std::string_view name) const;
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  // A view of the mapping, or an aligned copy where the tensor lies misaligned. Throws kUnsupported for a
  // dtype Tensor does not have.
  Tensor tensor(const SafetensorsEntry& entry) const;

 private:
  friend class SafetensorsHeaderReader;
  std::shared_ptr<const MappedFile> file_;
  std::vector<SafetensorsEntry> entries_;
  std::unordered_map<std::string_view, size_t> by_name_;  // keys point into entries_
  std::map<std::string, std::string> metadata_;
};

// ---- writing

struct SafetensorsSpec {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
  int64_t nbytes() const;  // throws kBadFile on overflow
};

// The order customary writers use: element size descending, then name, so that every tensor is aligned.
void sort_for_safetensors(std::vector<SafetensorsSpec>& tensors);

// Everything before the data: the u64 length and the JSON header, padded with spaces so that the data starts
// at a multiple of 8. Data follows in the order given. Throws kBadArgument on a duplicate, reserved or
// non-UTF-8 name.
std::string safetensors_header(const std::vector<SafetensorsSpec>& tensors,
                               const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

// Bytes of the whole file: header and data.
int64_t safetensors_file_size(const std::vector<SafetensorsSpec>& tensors,
                              const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

}  // namespace awq
