#include "checkpoint/verify.h"

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <set>

#include "base/error.h"
#include "base/system.h"
#include "checkpoint/json_file.h"
#include "checkpoint/manifest.h"
#include "checkpoint/shard_index.h"
#include "formats/safetensors.h"

namespace awq {
namespace fs = std::filesystem;
namespace {

using Severity = Finding::Severity;
using Findings = std::vector<Finding>;

constexpr const char* kIndexFile = "model.safetensors.index.json";

// Files that loaders look for by their ending: one that nobody vouches for may be read in place of one that
// somebody does.
bool may_be_loaded(const std::string& name) {
  constexpr std::array kEndings = {".safetensors", ".bin",   ".pt",    ".gguf",
                                   ".json",        ".jinja", ".model", ".py"};
  return std::any_of(kEndings.begin(), kEndings.end(),
                     [&](const char* ending) { return name.ends_with(ending); });
}

void check_manifest(const fs::path& dir, Findings& out) {
  if (!fs::exists(dir / kManifestFile)) {
    out.push_back({Severity::kNote, "manifest", kManifestFile, "",
                   "there is none: contents cannot be compared with what was written"});
    return;
  }
  try {
    const std::string text = read_json_text(dir / kManifestFile);
    if (manifest_json(parse_manifest(text, kManifestFile)) != text)
      out.push_back({Severity::kError, "manifest", kManifestFile, "",
                     "expected the text that its own digest vouches for, got another"});
    for (const FileFinding& f : verify_files(dir)) {
      const bool note = f.kind == FileFinding::Kind::kUnlisted && !may_be_loaded(f.file);
      out.push_back({note ? Severity::kNote : Severity::kError, "manifest", f.file, "", f.text});
    }
  } catch (const Error& error) {
    if (error.code() == Code::kCancelled || error.code() == Code::kNoMemory) throw;
    out.push_back({Severity::kError, "manifest", kManifestFile, "", error.what()});
  }
}

using Files = std::map<std::string, std::shared_ptr<const SafetensorsFile>>;

// Every .safetensors file of the folder; one that cannot be read is a finding of its own.
Files open_weights(const fs::path& dir, Findings& out) {
  Files files;
  for (const auto& entry : fs::directory_iterator(dir)) {
    const std::string name = entry.path().filename().string();
    if (!name.ends_with(".safetensors") || !entry.is_regular_file()) continue;
    try {
      files.emplace(name, SafetensorsFile::open(entry.path()));
    } catch (const Error& error) {
      out.push_back({Severity::kError, "safetensors", name, "", error.what()});
    }
  }
  return files;
}

void check_index(const fs::path& dir, const Files& files, Findings& out) {
  if (!fs::exists(dir / kIndexFile)) return;
  ShardIndex index;
  try {
    index = parse_shard_index(read_json_text(dir / kIndexFile), kIndexFile);
  } catch (const Error& error) {
    out.push_back({Severity::kError, "index", kIndexFile, "", error.what()});
    return;
  }
  std::set<std::string> shards;
  for (const auto& [tensor, shard] : index.weight_map) {
    shards.insert(shard);
    const auto file = files.find(shard);
    if (file == files.end() && !fs::exists(dir / shard))
      out.push_back(
          {Severity::kError, "index", shard, std::string(tensor), "the file that should hold it is missing"});
    else if (file != files.end() && file->second->find(tensor) == nullptr)
      out.push_back({Severity::kError, "index", shard, std::string(tensor),
                     "the index places it here, the file does not hold it"});
  }
  int64_t bytes = 0;
  for (const auto& [name, file] : files) {
    if (!shards.contains(name)) {
      out.push_back({Severity::kNote, "index", name, "", "the index names no tensor of it"});
      continue;
    }
    for (const SafetensorsEntry& e : file->entries()) {
      bytes += e.bytes;
      const auto it = index.weight_map.find(e.name);
      if (it == index.weight_map.end())
        out.push_back(
            {Severity::kError, "index", name, e.name, "the file holds it, the index does not name it"});
      else if (it->second != name)
        out.push_back({Severity::kError, "index", name, e.name, "the index places it in " + it->second});
    }
  }
  if (index.total_size && *index.total_size != bytes)
    out.push_back({Severity::kNote, "index", kIndexFile, "",
                   fmt::format("total_size: expected {}, got {}", bytes, *index.total_size)});
}

void check_metadata(const Files& files, Findings& out) {
  for (const auto& [name, file] : files)
    if (!file->metadata().contains("format"))
      out.push_back({Severity::kNote, "metadata", name, "",
                     "expected __metadata__ with a 'format', which older loaders demand"});
}

}  // namespace

Findings verify_stored_files(const fs::path& dir) {
  Findings out;
  check_manifest(dir, out);
  const Files files = open_weights(dir, out);
  check_index(dir, files, out);
  check_metadata(files, out);
  return out;
}

}  // namespace awq
