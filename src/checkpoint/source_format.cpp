#include "checkpoint/source_format.h"

#include <algorithm>
#include <map>

#include "checkpoint/packed_config.h"

namespace awq {
namespace {

bool in_layer(std::string_view name) { return name.find("layers.") != std::string_view::npos; }

bool full_precision(const std::string& dtype) {
  return dtype == "F32" || dtype == "F16" || dtype == "BF16" || dtype == "F64";
}

// Of small floats: scales count as part of the weights beside them.
bool is_scale(const std::string& name) {
  return name.ends_with(".weight_scale_inv") || name.ends_with(".weight_scale") || name.ends_with(".weight_scales");
}

}  // namespace

SourceFormat describe_format(const std::vector<StoredTensor>& tensors, const std::optional<PackedConfig>& packing) {
  std::map<std::string, double> weights_of;  // by dtype
  double weights = 0, bits = 0;
  bool packed = false;
  for (const StoredTensor& t : tensors) {
    if (!in_layer(t.name)) continue;
    const bool part = packing && is_packed_part(*packing, t.name, t.dtype);
    if (part || (t.name.ends_with(".weight") && t.shape.size() >= 2)) {
      const double n = static_cast<double>(packing ? packed_weights(*packing, t) : numel(t.shape));
      if (!part) weights_of[t.dtype] += n;
      weights += n;
      bits += 8.0 * static_cast<double>(t.bytes);
      packed |= part;
    } else if (is_scale(t.name)) {
      bits += 8.0 * static_cast<double>(t.bytes);
    }
  }
  SourceFormat format;
  if (weights > 0) format.bits_per_weight = bits / weights;
  if (packed) {
    format.quantized = true;
    format.name = packing_name(*packing);
    return format;
  }
  std::vector<std::pair<std::string, double>> types(weights_of.begin(), weights_of.end());
  std::stable_sort(types.begin(), types.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  for (size_t i = 0; i < types.size() && i < 3; ++i) format.name += (i ? "/" : "") + types[i].first;
  if (types.size() > 1) format.name = "mixed " + format.name;
  if (types.empty()) format.name = tensors.empty() ? "empty" : tensors.front().dtype;
  format.quantized =
      std::any_of(types.begin(), types.end(), [](const auto& t) { return !full_precision(t.first); });
  return format;
}

}  // namespace awq
