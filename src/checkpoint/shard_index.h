// model.safetensors.index.json: which file of a sharded checkpoint holds which tensor (docs/formats.md,
// section i).
#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

namespace awq {

using WeightMap =
    std::map<std::string, std::string>;  // tensor -> shard, the plain name of a .safetensors file

struct ShardIndex {
  WeightMap weight_map;
  std::optional<int64_t> total_size;  // metadata.total_size: bytes of all tensors, where it is said
};

// `where` names the file in errors: kBadFile for anything else, a name that could lead out of the folder
// included.
ShardIndex parse_shard_index(std::string_view text, const std::string& where);

}  // namespace awq
