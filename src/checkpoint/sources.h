// The two kinds of checkpoint behind Checkpoint::open, and what they share.
#pragma once
#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/mmap.h"
#include "checkpoint/checkpoint.h"

namespace awq {

std::shared_ptr<const Checkpoint> open_hf_directory(const std::filesystem::path& dir);
std::shared_ptr<const Checkpoint> open_gguf(const std::filesystem::path& path);

// What both kinds are once they are open: a configuration and a list of tensors with an index of their names.
class ListedCheckpoint : public Checkpoint {
 public:
  const nlohmann::ordered_json& config() const final { return config_; }
  const std::vector<StoredTensor>& tensors() const final { return tensors_; }
  const StoredTensor* find(std::string_view name) const final;
  const std::optional<AwqConfig>& awq() const final { return awq_; }
  const std::optional<PackedConfig>& packing() const final { return packing_; }

 protected:
  // Once the list is complete. kBadFile when two tensors have one name.
  void index_tensors();
  const StoredTensor& stored(std::string_view name) const;  // kNotFound: "DIR: no tensor 'x'"

  nlohmann::ordered_json config_;
  std::vector<StoredTensor> tensors_;
  std::optional<AwqConfig> awq_;
  std::optional<PackedConfig> packing_;  // never of a GGUF: its own types are no packed linears

 private:
  std::unordered_map<std::string_view, size_t> index_;  // keys point into tensors_
};

// Throws kBadFile naming file, tensor, offset and element when `tensor` holds a NaN or an infinity.
void require_finite(const Tensor& tensor, const StoredTensor& stored);

// kNotFound: "DIR: no tensor 'x'".
[[noreturn]] void no_such_tensor(const Checkpoint& checkpoint, std::string_view name);

// SHA-256 over the configuration and, in order of names, every tensor's name, dtype, shape, size and bytes:
// the same however the tensors are spread over shards.
std::string fingerprint_tensors(const Checkpoint& checkpoint,
                                const std::function<const MappedFile&(const StoredTensor&)>& file_of);

// The value of `license:` in a model card's front matter, "" if there is none.
std::string license_of_readme(std::string_view readme);

}  // namespace awq
