#include <algorithm>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "base/checked.h"
#include "checkpoint/writer.h"

namespace awq {
namespace {

// Upper estimate of a tensor's entry in the header, so that header and data together stay under the limit.
int64_t header_share(const OutputTensor& t) { return static_cast<int64_t>(t.name.size()) + 160; }

std::string shard_name(size_t i, size_t count) {
  return count == 1 ? "model.safetensors" : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, count);
}

}  // namespace

std::vector<OutputShard> plan_shards(const OutputPlan& plan, int64_t shard_bytes) {
  if (shard_bytes < 1) fail(Code::kBadArgument, "shard size: expected at least 1 byte, got {}", shard_bytes);
  std::vector<OutputShard> shards(1);
  std::unordered_set<std::string_view> names;
  int64_t used = 0;
  for (const OutputTensor& t : plan.tensors) {
    if (!names.insert(t.name).second) fail(Code::kBadArgument, "output tensor '{}' is planned twice", t.name);
    const int64_t bytes = checked_add(t.nbytes(), header_share(t), t.name);
    if (!shards.back().tensors.empty() && bytes > shard_bytes - used) {
      shards.emplace_back();
      used = 0;
    }
    shards.back().tensors.push_back(t);
    used = checked_add(used, bytes, t.name);
  }
  for (size_t i = 0; i < shards.size(); ++i) {
    shards[i].file = shard_name(i, shards.size());
    sort_for_safetensors(shards[i].tensors);
  }
  return shards;
}

std::string shard_index(const std::vector<OutputShard>& shards) {
  if (shards.size() < 2) return "";
  int64_t total = 0;
  nlohmann::json weight_map = nlohmann::json::object();  // sorted by name, as loaders' own writers do
  for (const OutputShard& shard : shards) {
    for (const OutputTensor& t : shard.tensors) {
      weight_map[t.name] = shard.file;
      total = checked_add(total, t.nbytes(), t.name);
    }
  }
  const nlohmann::json index = {{"metadata", {{"total_size", total}}}, {"weight_map", std::move(weight_map)}};
  return index.dump(2) + "\n";
}

int64_t planned_bytes(const OutputPlan& plan, int64_t shard_bytes) {
  const std::vector<OutputShard> shards = plan_shards(plan, shard_bytes);
  int64_t total = static_cast<int64_t>(shard_index(shards).size());
  for (const OutputShard& shard : shards)
    total = checked_add(total, safetensors_file_size(shard.tensors), shard.file);
  return total;
}

}  // namespace awq
