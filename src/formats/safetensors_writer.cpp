#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <tuple>
#include <unordered_set>

#include "base/checked.h"
#include "base/printable.h"
#include "formats/safetensors.h"

namespace awq {

int64_t SafetensorsSpec::nbytes() const {
  return checked_mul(numel(shape), dtype_size(dtype), printable(name));
}

void sort_for_safetensors(std::vector<SafetensorsSpec>& tensors) {
  std::sort(tensors.begin(), tensors.end(), [](const SafetensorsSpec& a, const SafetensorsSpec& b) {
    return std::forward_as_tuple(-dtype_size(a.dtype), a.name) <
           std::forward_as_tuple(-dtype_size(b.dtype), b.name);
  });
}

std::string safetensors_header(const std::vector<SafetensorsSpec>& tensors,
                               const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  // ordered_json looks keys up linearly; the set keeps many thousands of tensors cheap.
  std::unordered_set<std::string_view> names{"__metadata__"};
  auto& object = header.get_ref<nlohmann::ordered_json::object_t&>();
  int64_t begin = 0;
  for (const SafetensorsSpec& t : tensors) {
    if (!names.insert(t.name).second)
      fail(Code::kBadArgument, "safetensors header: tensor name '{}' is a duplicate or reserved",
           printable(t.name));
    const int64_t end = checked_add(begin, t.nbytes(), printable(t.name));
    object.push_back(
        {t.name, nlohmann::ordered_json{
                     {"dtype", dtype_name(t.dtype)}, {"shape", t.shape}, {"data_offsets", {begin, end}}}});
    begin = end;
  }
  std::string json;
  try {
    json = header.dump();
  } catch (const nlohmann::json::type_error&) {
    fail(Code::kBadArgument, "safetensors header: a tensor name or metadata value is not UTF-8");
  }
  json.append((8 - json.size() % 8) % 8, ' ');
  std::string out(8, '\0');
  for (int i = 0; i < 8; ++i) out[i] = static_cast<char>(json.size() >> (8 * i));
  return out + json;
}

int64_t safetensors_file_size(const std::vector<SafetensorsSpec>& tensors,
                              const std::map<std::string, std::string>& metadata) {
  int64_t size = static_cast<int64_t>(safetensors_header(tensors, metadata).size());
  for (const SafetensorsSpec& t : tensors) size = checked_add(size, t.nbytes(), printable(t.name));
  return size;
}

}  // namespace awq
