// Packed linears kept in a directory between runs, so that the next start maps them instead of packing. A file holds one
// model in one set of options; it may be deleted at any time, and one that does not fit is made anew.
#pragma once
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/kept_tensors.h"
#include "kernels/linear.h"

namespace awq {

class Checkpoint;
struct BlockSpec;
struct LoadOptions;
enum class Site : uint8_t;

// What the linears that read `site` in a block are called in a cache.
std::string packed_name(const BlockSpec& spec, Site site);

class PackCache {
 public:
  // Finds the file of this checkpoint and these options in `directory`, which is made if it is missing. A file that cannot be
  // read is a warning.
  PackCache(const std::filesystem::path& directory, const Checkpoint& checkpoint, const LoadOptions& options);

  // Whether the linears called `name` were kept.
  bool has(const std::string& name) const;
  // They, in order. Throws kBadFile when what was kept does not fit together.
  std::vector<std::unique_ptr<PackedLinear>> take(const std::string& name) const;
  // Notes them for save(), unless one has no form to keep.
  void keep(const std::string& name, const std::vector<const PackedLinear*>& linears);
  std::optional<Tensor> take_tensor(const std::string& name) const;
  void keep_tensor(const std::string& name, const Tensor& tensor) { tensors_.emplace_back(name, tensor); }
  // Writes what was noted, if nothing was found. A failure is a warning: the model is loaded all the same.
  void save() const;

 private:
  std::filesystem::path path_;
  std::string identity_;
  Precision precision_;
  Product product_;
  std::shared_ptr<const KeptTensors> found_;
  NamedTensors tensors_;
  std::map<std::string, std::string> notes_;
};

}  // namespace awq
