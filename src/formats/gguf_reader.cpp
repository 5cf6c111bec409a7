// Parsing of GGUF headers. Counts, lengths and offsets come from the file: each is checked against what the
// file can hold before it is used, and nothing is allocated ahead of what has been read.
#include <fmt/format.h>
#include <simdjson.h>
#include <algorithm>

#include <bit>
#include <cstring>
#include <filesystem>

#include "base/checked.h"
#include "formats/gguf.h"
#include "base/printable.h"

namespace awq {
namespace {

constexpr uint32_t kMagic = 0x46554747;  // "GGUF"
constexpr int64_t kMaxNameBytes = 63;    // ggml's GGML_MAX_NAME, less the terminator
constexpr int kMaxDims = 4;
constexpr int64_t kMaxStringBytes = int64_t{1} << 30;
constexpr int64_t kMinValueBytes = 8 + 1 + 4 + 1;       // key length, key, kind, smallest value
constexpr int64_t kMinTensorBytes = 8 + 1 + 4 + 4 + 8;  // name length, name, dims, type, offset
constexpr int64_t kMaxSplits = 99999;

static_assert(std::endian::native == std::endian::little, "file readers assume a little-endian machine");

int scalar_bytes(GgufKind kind) {
  static constexpr int kBytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  return kBytes[static_cast<size_t>(kind)];
}

template <class Where>
int64_t round_up(int64_t n, int64_t alignment, const Where& where) {
  return checked_add(n, alignment - 1, where) / alignment * alignment;
}

}  // namespace

// Reads one file of a set, appending to `out`.
class GgufReader {
 public:
  GgufReader(GgufFile& out, std::shared_ptr<const MappedFile> file) : out_(out), file_(std::move(file)) {
    bytes_ = file_->bytes();
    path_ = file_->path().string();
  }

  void read() {
    read_preamble();
    for (int64_t i = 0; i < value_count_; ++i) read_value();
    alignment_ = read_alignment();
    first_tensor_ = out_.tensors_.size();
    for (int64_t i = 0; i < tensor_count_; ++i) read_tensor();
    place_tensors();
    // The first file's keys describe the model; later ones repeat only the split's own.
    if (out_.files_.empty()) {
      out_.version_ = version_;
      out_.values_ = std::move(values_);
      out_.value_index_ = std::move(value_index_);
    }
    out_.files_.push_back(std::move(file_));
  }

 private:
  int64_t left() const { return static_cast<int64_t>(bytes_.size()) - at_; }

  std::span<const std::byte> take(int64_t n, const char* what) {
    if (n > left())
      fail(Code::kBadFile, "{}: {} at offset {}: expected {} bytes, the file ends after {} (truncated?)",
           path_, what, at_, n, left());
    const auto taken = bytes_.subspan(static_cast<size_t>(at_), static_cast<size_t>(n));
    at_ += n;
    return taken;
  }

  template <class T>
  T number(const char* what) {
    T value;
    std::memcpy(&value, take(sizeof(T), what).data(), sizeof(T));
    return value;
  }

  // A u64 that counts things of at least `min_bytes` each, or bytes.
  int64_t count(const char* what, int64_t min_bytes) {
    const int64_t offset = at_;
    const auto n = number<uint64_t>(what);
    if (n > static_cast<uint64_t>(left() / min_bytes))
      fail(Code::kBadFile, "{}: {} at offset {}: expected at most {} in a file of {} bytes, got {}", path_,
           what, offset, left() / min_bytes, bytes_.size(), n);
    return static_cast<int64_t>(n);
  }

  std::string_view string(const char* what) {
    const int64_t offset = at_, n = count(what, 1);
    if (n > kMaxStringBytes)
      fail(Code::kBadFile, "{}: {} at offset {}: expected at most {} bytes, got {}", path_, what, offset,
           kMaxStringBytes, n);
    const auto text = take(n, what);
    return {reinterpret_cast<const char*>(text.data()), text.size()};
  }

  // Names become text: JSON keys, messages, parts of files written.
  std::string name(const char* what) {
    const int64_t offset = at_;
    const std::string_view text = string(what);
    if (!simdjson::validate_utf8(text))
      fail(Code::kBadFile, "{}: {} at offset {}: expected UTF-8, got '{}'", path_, what, offset,
           printable(text, 40));
    return std::string(text);
  }

  GgufKind kind(const char* what) {
    const int64_t offset = at_;
    const auto id = number<uint32_t>(what);
    if (id > static_cast<uint32_t>(GgufKind::kF64))
      fail(Code::kBadFile, "{}: {} at offset {}: expected a kind from 0 to 12, got {}", path_, what, offset,
           id);
    return static_cast<GgufKind>(id);
  }

  void read_preamble() {
    const auto magic = number<uint32_t>("magic");
    if (magic != kMagic)
      fail(Code::kBadFile, "{}: magic at offset 0: expected 'GGUF', got {:#010x}", path_, magic);
    const auto version = number<uint32_t>("version");
    if (version != 2 && version != 3)
      fail(Code::kUnsupported, "{}: version at offset 4: expected 2 or 3 (little-endian), got {}", path_,
           version);
    version_ = static_cast<int>(version);
    const int64_t tensor_count_offset = at_;
    const auto tensors = number<uint64_t>("tensor count");
    value_count_ = count("key count", kMinValueBytes);
    if (tensors > static_cast<uint64_t>(left() / kMinTensorBytes))
      fail(Code::kBadFile, "{}: tensor count at offset {}: expected at most {} in a file of {} bytes, got {}",
           path_, tensor_count_offset, left() / kMinTensorBytes, bytes_.size(), tensors);
    tensor_count_ = static_cast<int64_t>(tensors);
  }

  void read_value() {
    const int64_t offset = at_;
    const std::string key = name("key");
    if (key.empty())
      fail(Code::kBadFile, "{}: key at offset {}: expected a name, got an empty one", path_, offset);
    GgufValue v;
    v.kind = kind("kind of a value");
    if (v.kind == GgufKind::kString)
      v.text = string("string value");
    else if (v.kind == GgufKind::kArray)
      read_array(v);
    else
      v.bytes = take(scalar_bytes(v.kind), "value");
    if (!value_index_.emplace(key, values_.size()).second)
      fail(Code::kBadFile, "{}: key '{}' at offset {} occurs twice", path_, printable(key), offset);
    values_.emplace_back(key, std::move(v));
  }

  void read_array(GgufValue& v) {
    const int64_t offset = at_;
    v.element = kind("kind of array elements");
    if (v.element == GgufKind::kArray)
      fail(Code::kBadFile, "{}: array at offset {}: expected scalars or strings, got nested arrays", path_,
           offset);
    if (v.element == GgufKind::kString) {
      v.count = count("array length", 8);
      for (int64_t i = 0; i < v.count; ++i) v.strings.push_back(string("array string"));
    } else {
      const int64_t size = scalar_bytes(v.element);
      v.count = count("array length", size);
      v.bytes = take(v.count * size, "array");  // count() bounded the product by the file's size
    }
  }

  int64_t read_alignment() const {
    const auto it = value_index_.find("general.alignment");
    if (it == value_index_.end()) return 32;
    const GgufValue& v = values_[it->second].second;
    uint32_t alignment = 0;
    if (v.kind == GgufKind::kU32) std::memcpy(&alignment, v.bytes.data(), 4);
    if (!std::has_single_bit(alignment))
      fail(Code::kBadFile, "{}: key 'general.alignment': expected a u32 power of two, got {} {}", path_,
           gguf_kind_name(v.kind), alignment);
    return alignment;
  }

  void read_tensor() {
    const int64_t offset = at_;
    GgufTensor t;
    t.name = name("tensor name");
    if (t.name.empty() || static_cast<int64_t>(t.name.size()) > kMaxNameBytes)
      fail(Code::kBadFile, "{}: tensor name at offset {}: expected 1 to {} bytes, got {}", path_, offset,
           kMaxNameBytes, t.name.size());
    const auto dims = number<uint32_t>("tensor dimensions");
    if (dims > kMaxDims) bad(t, fmt::format("expected at most {} dimensions, got {}", kMaxDims, dims));
    t.shape.resize(dims);
    for (uint32_t i = 0; i < dims; ++i) {  // fastest first in the file
      const auto size = number<uint64_t>("tensor dimension");
      if (size > INT64_MAX) bad(t, fmt::format("expected dimension {} below 2^63, got {}", i, size));
      t.shape[dims - 1 - i] = static_cast<int64_t>(size);
    }
    const auto type = number<uint32_t>("tensor type");
    t.type = find_ggml_type(type);
    if (!t.type)
      fail(Code::kUnsupported, "{}: tensor '{}': unknown ggml type {} (readable: {})", path_,
           printable(t.name), type, readable_ggml_types());
    const auto start = number<uint64_t>("tensor offset");
    if (start > INT64_MAX) bad(t, fmt::format("expected an offset below 2^63, got {}", start));
    t.offset = static_cast<int64_t>(start);
    t.bytes = tensor_bytes(t);
    t.file = out_.files_.size();
    if (!out_.tensor_index_.emplace(t.name, out_.tensors_.size()).second) bad(t, "occurs twice");
    out_.tensors_.push_back(std::move(t));
  }

  int64_t tensor_bytes(const GgufTensor& t) const {
    const int64_t columns = t.shape.empty() ? 1 : t.shape.back();
    if (columns % t.type->block != 0)
      bad(t, fmt::format("type {} needs rows of a multiple of {} weights, got shape {}", t.type->name,
                         t.type->block, shape_text(t.shape)));
    const auto here = [&] { return where(t); };
    // A dimension of zero must not hide that the others are too large: who reads the file may multiply in
    // another order.
    int64_t blocks = 1;
    bool empty = false;
    for (size_t i = 0; i < t.shape.size(); ++i) {
      const int64_t n = i + 1 == t.shape.size() ? columns / t.type->block : t.shape[i];
      empty = empty || n == 0;
      blocks = checked_mul(blocks, std::max<int64_t>(1, n), here);
    }
    checked_mul(checked_mul(blocks, t.type->block, here), sizeof(float), here);  // as F32 in memory
    const int64_t bytes = checked_mul(blocks, t.type->block_bytes, here);
    return empty ? 0 : bytes;
  }

  // Data starts at the aligned end of the header; ggml demands that each tensor follows the one before,
  // padded.
  void place_tensors() {
    if (tensor_count_ == 0) return;
    const int64_t start = round_up(at_, alignment_, path_), size = static_cast<int64_t>(bytes_.size());
    int64_t expected = 0;
    for (size_t i = first_tensor_; i < out_.tensors_.size(); ++i) {
      GgufTensor& t = out_.tensors_[i];
      if (t.offset != expected)
        bad(t, fmt::format("expected offset {} behind the tensor before it, got {}", expected, t.offset));
      const auto here = [&] { return where(t); };
      expected = round_up(checked_add(expected, t.bytes, here), alignment_, here);
      t.offset = checked_add(start, t.offset, here);
      if (t.offset > size || t.bytes > size - t.offset)
        bad(t, fmt::format("at offset {}: expected {} bytes, the file ends after {} (truncated?)", t.offset,
                           t.bytes, size > t.offset ? size - t.offset : 0));
    }
  }

  std::string where(const GgufTensor& t) const {
    return fmt::format("{}: tensor '{}'", path_, printable(t.name));
  }
  [[noreturn]] void bad(const GgufTensor& t, const std::string& what) const {
    fail(Code::kBadFile, "{}: {}", where(t), what);
  }

  GgufFile& out_;
  std::shared_ptr<const MappedFile> file_;
  std::span<const std::byte> bytes_;
  std::string path_;
  int64_t at_ = 0;
  int version_ = 0;
  int64_t tensor_count_ = 0, value_count_ = 0, alignment_ = 32;
  size_t first_tensor_ = 0;
  std::vector<std::pair<std::string, GgufValue>> values_;
  std::unordered_map<std::string, size_t> value_index_;
};

namespace {

// "NAME-00002-of-00003.gguf" -> the names of all three, or just the path itself.
std::vector<std::filesystem::path> split_set(const std::filesystem::path& path) {
  const std::string name = path.filename().string();
  constexpr size_t kTail = std::string_view("-00001-of-00003.gguf").size();
  const auto number_at = [&](size_t i) {
    int64_t n = 0;
    for (size_t j = i; j < i + 5; ++j)
      n = name[j] >= '0' && name[j] <= '9' && n >= 0 ? n * 10 + (name[j] - '0') : -1;
    return n;
  };
  if (name.size() <= kTail) return {path};
  const size_t tail = name.size() - kTail;
  if (name[tail] != '-' || name.compare(tail + 6, 4, "-of-") != 0 || name.compare(tail + 15, 5, ".gguf") != 0)
    return {path};
  const int64_t no = number_at(tail + 1), count = number_at(tail + 10);
  if (no < 1 || count < no || count > kMaxSplits) return {path};
  std::vector<std::filesystem::path> set;
  for (int64_t i = 1; i <= count; ++i)
    set.push_back(path.parent_path() / fmt::format("{}-{:05}-of-{:05}.gguf", name.substr(0, tail), i, count));
  return set;
}

}  // namespace

std::shared_ptr<const GgufFile> GgufFile::open(const std::filesystem::path& path) {
  const auto set = split_set(path);
  std::vector<std::shared_ptr<const MappedFile>> files;
  for (const auto& part : set) {
    if (set.size() > 1 && !std::filesystem::exists(part))
      fail(Code::kNotFound, "{}: a file of the split set is missing ({} in all)", part.string(), set.size());
    files.push_back(MappedFile::open(part));
  }
  return parse(std::move(files));
}

std::shared_ptr<const GgufFile> GgufFile::parse(std::vector<std::shared_ptr<const MappedFile>> set) {
  auto out = std::make_shared<GgufFile>();
  for (const auto& file : set) GgufReader(*out, file).read();
  const int64_t splits = out->integer("split.count").value_or(1);
  if (splits > 1 && splits != static_cast<int64_t>(set.size()))
    fail(Code::kBadFile, "{}: key 'split.count': expected {} by the file's name, got {}",
         out->path().string(), set.size(), splits);
  const auto total = out->integer("split.tensors.count");
  if (splits > 1 && total && *total != static_cast<int64_t>(out->tensors_.size()))
    fail(Code::kBadFile, "{}: key 'split.tensors.count': expected {} tensors in the set, got {}",
         out->path().string(), *total, out->tensors_.size());
  return out;
}

}  // namespace awq
