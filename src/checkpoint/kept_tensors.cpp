#include "checkpoint/kept_tensors.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

#include "base/sha256.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/output_files.h"
#include "formats/safetensors.h"

namespace awq {
namespace fs = std::filesystem;
namespace {

constexpr const char* kIdentityKey = "identity";
constexpr size_t kAlignment = 64;

// The header with the first tensor at a multiple of 64 bytes of the file, and so of the mapping.
std::string aligned_header(const std::vector<SafetensorsSpec>& specs, std::map<std::string, std::string> metadata) {
  metadata["alignment"] = "";
  const size_t size = safetensors_header(specs, metadata).size();  // a multiple of 8, and so grows by what is put in
  metadata["alignment"] = std::string((kAlignment - size % kAlignment) % kAlignment, ' ');
  return safetensors_header(specs, metadata);
}

void write_file(const fs::path& path, const fs::path& shown, const std::string& header, const NamedTensors& tensors) {
  int64_t size = static_cast<int64_t>(header.size());
  for (const auto& [name, tensor] : tensors) size += tensor.nbytes();
  OutputFile out(path, shown);
  out.reserve(size);
  out.write_at(0, header.data(), static_cast<int64_t>(header.size()));
  int64_t at = static_cast<int64_t>(header.size());
  for (const auto& [name, tensor] : tensors) {
    out.write_at(at, tensor.bytes(), tensor.nbytes());
    at += tensor.nbytes();
  }
  out.sync();
}

}  // namespace

std::shared_ptr<const KeptTensors> KeptTensors::open(const fs::path& path, std::string_view identity) {
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return nullptr;
  auto kept = std::make_shared<KeptTensors>();
  kept->file_ = SafetensorsFile::open(path);
  const std::string* found = kept->note(kIdentityKey);
  if (found == nullptr || *found != identity) return nullptr;
  return kept;
}

std::optional<Tensor> KeptTensors::find(std::string_view name) const {
  const SafetensorsEntry* entry = file_->find(name);
  if (entry == nullptr) return std::nullopt;
  return file_->tensor(*entry);
}

const std::string* KeptTensors::note(const std::string& name) const {
  const auto it = file_->metadata().find(name);
  return it == file_->metadata().end() ? nullptr : &it->second;
}

void write_kept_tensors(const fs::path& path, std::string_view identity, const NamedTensors& tensors,
                        const std::map<std::string, std::string>& notes) {
  NamedTensors ordered = tensors;
  // Those of whole cache lines first: then each of them starts at one.
  std::stable_partition(ordered.begin(), ordered.end(),
                        [](const auto& t) { return t.second.nbytes() % static_cast<int64_t>(kAlignment) == 0; });
  std::vector<SafetensorsSpec> specs;
  for (const auto& [name, tensor] : ordered) specs.push_back({name, tensor.dtype(), tensor.shape()});
  std::map<std::string, std::string> metadata = notes;
  metadata[kIdentityKey] = identity;
  const fs::path temporary = path.parent_path() / fmt::format(".{}.{}.tmp", path.filename().string(), ::getpid());
  try {
    write_file(temporary, path, aligned_header(specs, std::move(metadata)), ordered);
    if (std::rename(temporary.c_str(), path.c_str()) != 0)
      fail(Code::kIo, "{}: cannot take its name: {}", path.string(), std::strerror(errno));
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
}

std::string file_identity(const Checkpoint& checkpoint) {
  std::set<fs::path> files;
  for (const StoredTensor& t : checkpoint.tensors()) files.insert(t.file);
  std::string text = checkpoint.config().dump();
  for (const fs::path& file : files) {
    struct stat s {};
    const fs::path place = fs::weakly_canonical(file);
    if (::stat(place.c_str(), &s) != 0) fail(Code::kIo, "{}: cannot be examined: {}", file.string(), std::strerror(errno));
    text += fmt::format("\n{} {} {} {}.{:09}", place.string(), s.st_ino, s.st_size, s.st_mtim.tv_sec, s.st_mtim.tv_nsec);
  }
  return sha256_hex(text);
}

}  // namespace awq
