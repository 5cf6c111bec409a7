// quantization_config of GPTQ, compressed-tensors and bitsandbytes checkpoints (docs/formats.md, section j).
#pragma once
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>

#include "checkpoint/checkpoint.h"

namespace awq {

// From config.json's quantization_config, or GPTQ's quantize_config.json beside it when there are packed
// weights to explain; empty when there is none or it belongs to another method. kUnsupported for variants
// that a QuantWeight cannot hold, kBadFile for values of the wrong kind.
std::optional<PackedConfig> read_packed_config(const std::filesystem::path& dir,
                                               const nlohmann::ordered_json& config, bool has_packed_weights);

// Whether a tensor of this name belongs to a packed linear: one of the form's parts.
bool is_packed_part(const PackedConfig& packing, std::string_view name, std::string_view dtype);

// Checkpoint::weights_in for a checkpoint packed so.
int64_t packed_weights(const PackedConfig& packing, const StoredTensor& tensor);

// "GPTQ w4 g128", "NF4", ... for listings.
std::string packing_name(const PackedConfig& packing);

}  // namespace awq
