#include "formats/safetensors.h"

#include <simdjson.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "base/checked.h"
#include "base/printable.h"

namespace awq {
namespace {

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the reference implementation's limit

struct DTypeName {
  std::string_view name;
  int bits;
  std::optional<DType> dtype;
};
constexpr DTypeName kDTypes[] = {
    {"F32", 32, DType::kF32},         {"F16", 16, DType::kF16},
    {"BF16", 16, DType::kBF16},       {"F64", 64, DType::kF64},
    {"F8_E4M3", 8, DType::kF8E4M3},   {"F8_E5M2", 8, DType::kF8E5M2},
    {"I64", 64, DType::kI64},         {"I32", 32, DType::kI32},
    {"I16", 16, DType::kI16},         {"I8", 8, DType::kI8},
    {"U64", 64, DType::kU64},         {"U32", 32, DType::kU32},
    {"U16", 16, DType::kU16},         {"U8", 8, DType::kU8},
    {"BOOL", 8, DType::kBool},        {"F8_E8M0", 8, std::nullopt},
    {"F8_E4M3FNUZ", 8, std::nullopt}, {"F8_E5M2FNUZ", 8, std::nullopt},
    {"F4", 4, std::nullopt},          {"F6_E2M3", 6, std::nullopt},
    {"F6_E3M2", 6, std::nullopt},     {"C64", 64, std::nullopt},
};

const DTypeName* find_dtype(std::string_view name) {
  const auto it = std::find_if(std::begin(kDTypes), std::end(kDTypes),
                               [&](const DTypeName& d) { return d.name == name; });
  return it == std::end(kDTypes) ? nullptr : it;
}

uint64_t read_u64(const std::byte* p) {
  uint64_t v;
  std::memcpy(&v, p, 8);  // little-endian on every machine this is built for
  return v;
}
static_assert(std::endian::native == std::endian::little, "file readers assume a little-endian machine");

}  // namespace

// Parses and checks one header; messages start with the file's path.
class SafetensorsHeaderReader {
 public:
  SafetensorsHeaderReader(SafetensorsFile& out, std::shared_ptr<const MappedFile> file) : out_(out) {
    out_.file_ = std::move(file);
    path_ = out_.file_->path().string();
  }

  void read() {
    const std::string_view json = header_text();
    simdjson::dom::parser parser;
    simdjson::dom::element root;
    if (const auto error = parser.parse(json.data(), json.size(), true).get(root))
      fail(Code::kBadFile, "{}: safetensors header at offset 8: expected a JSON object, got {}", path_,
           simdjson::error_message(error));
    simdjson::dom::object object;
    if (root.get(object))
      fail(Code::kBadFile, "{}: safetensors header at offset 8: expected a JSON object, got another value",
           path_);
    for (const auto& [key, value] : object) {
      if (key == "__metadata__")
        read_metadata(value);
      else
        read_entry(key, value);
    }
    check_coverage();
    index_names();
  }

 private:
  std::string_view header_text() {
    const auto bytes = out_.file_->bytes();
    if (bytes.size() < 8)
      fail(Code::kBadFile, "{}: expected a safetensors file of at least 8 bytes, got {}", path_,
           bytes.size());
    const uint64_t length = read_u64(bytes.data());
    if (length > kMaxHeaderBytes)
      fail(Code::kBadFile, "{}: safetensors header length at offset 0: expected at most {}, got {}", path_,
           kMaxHeaderBytes, length);
    if (length > bytes.size() - 8)
      fail(Code::kBadFile,
           "{}: safetensors header length at offset 0: expected at most {} (file of {} bytes), got {}", path_,
           bytes.size() - 8, bytes.size(), length);
    data_start_ = 8 + static_cast<int64_t>(length);
    data_bytes_ = static_cast<int64_t>(bytes.size()) - data_start_;
    return {reinterpret_cast<const char*>(bytes.data()) + 8, static_cast<size_t>(length)};
  }

  void read_metadata(simdjson::dom::element value) {
    simdjson::dom::object object;
    if (value.get(object)) fail(Code::kBadFile, "{}: safetensors __metadata__: expected an object", path_);
    if (std::exchange(has_metadata_, true))
      fail(Code::kBadFile, "{}: safetensors __metadata__ occurs twice", path_);
    for (const auto& [key, text] : object) {
      std::string_view string;
      if (text.get(string))
        fail(Code::kBadFile, "{}: safetensors __metadata__ '{}': expected a string", path_, printable(key));
      out_.metadata_.emplace(key, string);
    }
  }

  void read_entry(std::string_view name, simdjson::dom::element value) {
    simdjson::dom::object object;
    if (value.get(object)) bad(name, "expected an object with dtype, shape and data_offsets");
    SafetensorsEntry entry;
    entry.name = name;
    std::string_view dtype_name;
    if (object["dtype"].get(dtype_name)) bad(name, "expected a string dtype");
    const DTypeName* dtype = find_dtype(dtype_name);
    if (!dtype) bad(name, "unknown dtype '" + printable(dtype_name, 40) + "'");
    entry.dtype_name = dtype->name;
    entry.dtype = dtype->dtype;
    entry.shape = sizes(name, object, "shape");
    const Shape offsets = sizes(name, object, "data_offsets");
    if (offsets.size() != 2 || offsets[0] > offsets[1]) bad(name, "expected data_offsets [begin, end]");
    entry.bytes = offsets[1] - offsets[0];
    entry.offset = checked_add(data_start_, offsets[0], [&] { return where(name); });
    check_size(entry, dtype->bits);
    out_.entries_.push_back(std::move(entry));
  }

  Shape sizes(std::string_view name, const simdjson::dom::object& object, const char* key) {
    simdjson::dom::array array;
    if (object[key].get(array)) bad(name, fmt::format("expected {} to be an array of integers >= 0", key));
    Shape out;
    for (const auto element : array) {
      int64_t size = -1;
      if (element.get(size) || size < 0)
        bad(name, fmt::format("expected {} to be an array of integers >= 0", key));
      out.push_back(size);
    }
    return out;
  }

  void check_size(const SafetensorsEntry& entry, int bits) {
    const auto here = [&] { return where(entry.name); };
    int64_t elements = 1;
    // A zero anywhere makes the product zero, but an overflow on the way is still refused, as the reference
    // does.
    for (const int64_t d : entry.shape) elements = checked_mul(elements, d, here);
    const int64_t total_bits = checked_mul(elements, bits, here);
    if (total_bits % 8 != 0 || total_bits / 8 != entry.bytes)
      bad(entry.name,
          fmt::format("at offset {}: {} {} needs {} bytes, data_offsets give {}", entry.offset,
                      entry.dtype_name, shape_text(entry.shape), (total_bits + 7) / 8, entry.bytes));
  }

  // The data must be covered exactly: first offset 0, no gap, no overlap, nothing behind the last tensor.
  void check_coverage() {
    auto& entries = out_.entries_;
    std::sort(entries.begin(), entries.end(), [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
      return std::tie(a.offset, a.bytes) < std::tie(b.offset, b.bytes);
    });
    int64_t end = data_start_;
    for (const SafetensorsEntry& e : entries) {
      if (e.offset != end)
        bad(e.name, fmt::format("expected to start at offset {}, got {} ({})", end, e.offset,
                                e.offset > end ? "a gap" : "an overlap"));
      end = checked_add(end, e.bytes, [&] { return where(e.name); });
      if (end > data_start_ + data_bytes_)
        bad(e.name, fmt::format("at offset {}: expected {} bytes, the file ends after {} (truncated?)",
                                e.offset, e.bytes, data_start_ + data_bytes_ - e.offset));
    }
    if (end != data_start_ + data_bytes_)
      fail(Code::kBadFile,
           "{}: expected the file to end at offset {} with its last tensor, got {} bytes more", path_, end,
           data_start_ + data_bytes_ - end);
  }

  void index_names() {
    out_.by_name_.reserve(out_.entries_.size());
    for (size_t i = 0; i < out_.entries_.size(); ++i)
      if (!out_.by_name_.emplace(out_.entries_[i].name, i).second) bad(out_.entries_[i].name, "occurs twice");
  }

  std::string where(std::string_view name) const {
    return fmt::format("{}: tensor '{}'", path_, printable(name));
  }
  [[noreturn]] void bad(std::string_view name, const std::string& what) const {
    fail(Code::kBadFile, "{}: {}", where(name), what);
  }

  SafetensorsFile& out_;
  std::string path_;
  int64_t data_start_ = 0, data_bytes_ = 0;
  bool has_metadata_ = false;
};

std::shared_ptr<const SafetensorsFile> SafetensorsFile::open(const std::filesystem::path& path) {
  return parse(MappedFile::open(path));
}

std::shared_ptr<const SafetensorsFile> SafetensorsFile::parse(std::shared_ptr<const MappedFile> file) {
  auto out = std::make_shared<SafetensorsFile>();
  SafetensorsHeaderReader(*out, std::move(file)).read();
  return out;
}

const SafetensorsEntry* SafetensorsFile::find(std::string_view name) const {
  const auto it = by_name_.find(name);
  return it == by_name_.end() ? nullptr : &entries_[it->second];
}

Tensor SafetensorsFile::tensor(const SafetensorsEntry& entry) const {
  if (!entry.dtype)
    fail(Code::kUnsupported, "{}: tensor '{}': dtype {} cannot be loaded here", path().string(),
         printable(entry.name), entry.dtype_name);
  const std::byte* data = file_->bytes().data() + entry.offset;
  if (reinterpret_cast<uintptr_t>(data) % dtype_size(*entry.dtype) == 0)
    return {*entry.dtype, entry.shape, data, file_};
  Tensor copy(*entry.dtype, entry.shape);
  std::memcpy(copy.mutable_bytes(), data, static_cast<size_t>(entry.bytes));
  return copy;
}

}  // namespace awq
