#include "runtime/end_ids.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "checkpoint/gguf_config.h"
#include "checkpoint/json_file.h"

namespace awq {
namespace {

using Json = nlohmann::ordered_json;

void add_eos(const Json& config, std::vector<int32_t>& ids) {
  const auto it = config.find("eos_token_id");
  if (it == config.end()) return;
  const auto add = [&](const Json& id) {
    if (id.is_number_integer() && id.get<int64_t>() >= 0 && id.get<int64_t>() <= INT32_MAX)
      ids.push_back(id.get<int32_t>());
  };
  if (it->is_array())
    for (const Json& id : *it) add(id);
  else
    add(*it);
}

}  // namespace

std::vector<int32_t> end_ids(const Checkpoint& checkpoint) {
  std::vector<int32_t> ids;
  add_eos(checkpoint.config(), ids);
  std::error_code error;
  const std::filesystem::path file = checkpoint.path() / "generation_config.json";
  if (checkpoint.gguf() != nullptr)
    add_eos(generation_config_from_gguf(*checkpoint.gguf()), ids);
  else if (std::filesystem::exists(file, error))
    add_eos(read_json_object(file), ids);
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

}  // namespace awq
