// Tensors that a program keeps in a file between its runs and may lose at any time: a safetensors file whose metadata says
// what it was made from.
#pragma once
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tensor/tensor.h"

namespace awq {

class SafetensorsFile;
class Checkpoint;

class KeptTensors {
 public:
  // Maps the file. Null when there is none, or when it was made from something else; throws kBadFile or kIo for one that
  // cannot be read.
  static std::shared_ptr<const KeptTensors> open(const std::filesystem::path& path, std::string_view identity);
  // A view of the mapping; its start is aligned to 64 bytes if all sizes before it were.
  std::optional<Tensor> find(std::string_view name) const;
  const std::string* note(const std::string& name) const;

 private:
  std::shared_ptr<const SafetensorsFile> file_;
};

using NamedTensors = std::vector<std::pair<std::string, Tensor>>;
// Writes the file under a temporary name and renames it; the directory must exist. Throws kIo or kNoSpace.
void write_kept_tensors(const std::filesystem::path& path, std::string_view identity, const NamedTensors& tensors,
                        const std::map<std::string, std::string>& notes);

// What tells the files of a checkpoint from others and from their own later versions without reading them: a digest of their
// places, sizes and times of change, and of the configuration.
std::string file_identity(const Checkpoint& checkpoint);

}  // namespace awq
