// model.safetensors.index.json: no name of a shard leads out of the folder.
#include <filesystem>

#include "checkpoint/shard_index.h"
#include "target.h"

using namespace awq;

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  ShardIndex index;
  if (!fuzz::accepts([&] { index = parse_shard_index(fuzz::text_of(data, size), "file"); })) return 0;
  for (const auto& [tensor, shard] : index.weight_map) {
    const std::filesystem::path path(shard);
    fuzz::require(!path.has_root_path() && path.filename() == path && shard.find('\0') == shard.npos &&
                  shard != "..");
  }
  return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  return fuzz::mutate_json(data, size, max_size, seed);
}
