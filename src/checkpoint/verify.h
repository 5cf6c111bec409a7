// What `awq verify` finds in the files of a checkpoint without knowing layers: the manifest, the index, the
// headers. model/verify.h goes on from there.
#pragma once
#include <filesystem>
#include <string>
#include <vector>

namespace awq {

struct Finding {
  enum class Severity { kError, kNote } severity = Severity::kError;  // a note leaves the checkpoint usable
  std::string rule;    // "manifest", "index", "shape", ...: stable, listed in docs/formats.md
  std::string file;    // name inside the folder, "" when it concerns the whole
  std::string tensor;  // or module; "" when it concerns the file
  std::string text;    // "expected X, got Y"
};

// Rules "manifest" (every byte of every file against the digests, and manifest.json against its own), "index"
// (tensors and shards agree in both directions) and "metadata". dir holds config.json. Reads every byte when
// there is a manifest.
std::vector<Finding> verify_stored_files(const std::filesystem::path& dir);

}  // namespace awq
