#include "checkpoint/checkpoint.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/progress.h"
#include "base/sha256.h"
#include "base/thread_pool.h"
#include "checkpoint/finite_scan.h"
#include "checkpoint/packed_config.h"
#include "checkpoint/sources.h"
#include "base/printable.h"

namespace awq {
namespace {

namespace fs = std::filesystem;

// The .gguf files of a directory, a split set counting as its first file.
std::vector<fs::path> gguf_files(const fs::path& dir) {
  std::vector<fs::path> out;
  for (const auto& entry : fs::directory_iterator(dir)) {
    const std::string name = entry.path().filename().string();
    if (entry.path().extension() != ".gguf") continue;
    const size_t of = name.rfind("-of-");
    const bool later_split =
        of != std::string::npos && of + 14 == name.size() && of >= 6 && name.substr(of - 6, 6) != "-00001";
    if (!later_split) out.push_back(entry.path());
  }
  std::sort(out.begin(), out.end());
  return out;
}

}  // namespace

std::shared_ptr<const Checkpoint> Checkpoint::open(const fs::path& path) {
  std::error_code error;
  if (!fs::exists(path, error)) fail(Code::kNotFound, "{}: no such file or folder", path.string());
  if (!fs::is_directory(path, error)) {
    if (path.extension() == ".gguf") return open_gguf(path);
    fail(Code::kUnsupported, "{}: expected a folder with config.json or a .gguf file", path.string());
  }
  if (fs::exists(path / "config.json", error)) return open_hf_directory(path);
  const std::vector<fs::path> ggufs = gguf_files(path);
  if (ggufs.size() == 1) return open_gguf(ggufs[0]);
  if (ggufs.empty())
    fail(Code::kNotFound, "{}: expected config.json or one .gguf file, found neither", path.string());
  fail(Code::kNotFound, "{}: expected config.json or one .gguf file, found {} of them; name one, e.g. {}",
       path.string(), ggufs.size(), ggufs[0].string());
}

void Checkpoint::require_shape(std::string_view name, const Shape& shape) const {
  const StoredTensor* stored = find(name);
  if (!stored) no_such_tensor(*this, name);
  if (stored->shape != shape)
    fail(Code::kBadFile, "{}: tensor '{}' at offset {}: expected shape {}, got {}", stored->file.string(),
         printable(stored->stored_name), stored->offset, shape_text(shape), shape_text(stored->shape));
}

Tensor Checkpoint::load_shaped(std::string_view name, const Shape& shape) const {
  require_shape(name, shape);
  return load(name);
}

Tensor Checkpoint::load_f32(std::string_view name, const Shape& shape) const {
  Tensor tensor = load_shaped(name, shape);
  if (!is_float(tensor.dtype()))
    fail(Code::kBadFile, "{}: tensor '{}': expected floating-point weights, got {}",
         find(name)->file.string(), printable(name), dtype_name(tensor.dtype()));
  return tensor.to_f32();
}

bool Checkpoint::is_quantized(std::string_view module) const {
  return packing() && has(std::string(module) + std::string(form_marker(packing()->form)));
}

QuantWeight Checkpoint::load_quant(std::string_view module) const {
  const std::string name(module);
  if (!is_quantized(module)) fail(Code::kNotFound, "{}: '{}' is not quantized", path().string(), printable(module));
  const std::string marker = name + std::string(form_marker(packing()->form));
  const PartSource parts{[&](std::string_view suffix) { return has(name + std::string(suffix)); },
                         [&](std::string_view suffix) { return load(name + std::string(suffix)); }};
  return decode_weight(packing()->form, parts, packing()->hints, find(marker)->file.string() + ": " + printable(module));
}

int64_t Checkpoint::weights_in(const StoredTensor& tensor) const {
  return packing() ? packed_weights(*packing(), tensor) : numel(tensor.shape);
}

const StoredTensor* ListedCheckpoint::find(std::string_view name) const {
  const auto it = index_.find(name);
  return it == index_.end() ? nullptr : &tensors_[it->second];
}

const StoredTensor& ListedCheckpoint::stored(std::string_view name) const {
  const StoredTensor* found = find(name);
  if (!found) no_such_tensor(*this, name);
  return *found;
}

void ListedCheckpoint::index_tensors() {
  index_.reserve(tensors_.size());
  for (size_t i = 0; i < tensors_.size(); ++i)
    if (!index_.emplace(tensors_[i].name, i).second)
      fail(Code::kBadFile, "{}: tensor '{}' occurs in two places", tensors_[i].file.string(),
           printable(tensors_[i].name));
}

void require_finite(const Tensor& tensor, const StoredTensor& stored) {
  const int64_t at = first_non_finite(tensor.dtype(), tensor.bytes(), tensor.numel());
  if (at < 0) return;
  float value = 0;
  convert_to_f32(tensor.dtype(), tensor.bytes() + at * dtype_size(tensor.dtype()), &value, 1);
  fail(Code::kBadFile, "{}: tensor '{}' at offset {}: expected finite values, got {} at element {}",
       stored.file.string(), printable(stored.stored_name), stored.offset,
       value != value ? "nan"
       : value > 0    ? "inf"
                      : "-inf",
       at);
}

void no_such_tensor(const Checkpoint& checkpoint, std::string_view name) {
  fail(Code::kNotFound, "{}: no tensor '{}'", checkpoint.path().string(), printable(name));
}

std::string fingerprint_tensors(const Checkpoint& checkpoint,
                                const std::function<const MappedFile&(const StoredTensor&)>& file_of) {
  std::vector<const StoredTensor*> order;
  for (const StoredTensor& t : checkpoint.tensors()) order.push_back(&t);
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) { return a->name < b->name; });
  Sha256 hash;
  hash.update(checkpoint.config().dump(-1, ' ', true, nlohmann::json::error_handler_t::replace));
  // A tensor's contents stand in it as the digests of parts, which threads may form.
  constexpr int64_t kPart = int64_t{4} << 20, kAtOnce = 64;  // their product is resident while hashing
  for (const StoredTensor* t : order) {
    hash.update(fmt::format("\n{} {} {} {}\n", t->name, t->dtype, shape_text(t->shape), t->bytes));
    const MappedFile& file = file_of(*t);
    const int64_t parts = (t->bytes + kPart - 1) / kPart;
    for (int64_t first = 0; first < parts; first += kAtOnce) {
      check_cancelled();
      std::vector<std::string> digests(static_cast<size_t>(std::min(kAtOnce, parts - first)));
      parallel_for(static_cast<int64_t>(digests.size()), [&](int64_t i) {
        const int64_t begin = (first + i) * kPart;
        Sha256 part;
        const auto offset = static_cast<size_t>(t->offset + begin), size = static_cast<size_t>(std::min(kPart, t->bytes - begin));
        part.update(file.bytes().subspan(offset, size));
        file.done_with(offset, size);
        digests[static_cast<size_t>(i)] = part.hex();
      });
      for (const std::string& digest : digests) hash.update(digest);
    }
  }
  return hash.hex();
}

std::string license_of_readme(std::string_view readme) {
  if (!readme.starts_with("---\n") && !readme.starts_with("---\r\n")) return "";
  const std::string_view front = readme.substr(0, std::min(readme.find("\n---", 3), readme.size()));
  constexpr std::string_view kKey = "\nlicense:";
  const size_t at = front.find(kKey);
  if (at == std::string_view::npos) return "";
  std::string_view value = front.substr(at + kKey.size());
  value = value.substr(0, value.find('\n'));
  const size_t begin = value.find_first_not_of(" \t\"'"), end = value.find_last_not_of(" \t\r\"'");
  return begin == std::string_view::npos ? "" : printable(value.substr(begin, end - begin + 1), 80);
}

}  // namespace awq
