// model.safetensors.index.json: which file of a sharded checkpoint holds which tensor (docs/formats.md, section i).
#pragma once
#include <map>
#include <string>
#include <string_view>

namespace awq {

using WeightMap = std::map<std::string, std::string>;  // tensor -> shard, the plain name of a .safetensors file

// `where` names the file in errors: kBadFile for anything else, a name that could lead out of the folder included.
WeightMap parse_shard_index(std::string_view text, const std::string& where);

}  // namespace awq
