// quantization_config of AWQ checkpoints in all its spellings (docs/formats.md, section j).
#pragma once
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>

#include "checkpoint/checkpoint.h"

namespace awq {

// One object of settings; `where` names it in errors. kUnsupported for other methods, naming them, and for AWQ layouts
// other than gemm; kBadFile for values of the wrong kind.
AwqConfig parse_awq_config(const nlohmann::ordered_json& settings, const std::string& where);

// config.json's quantization_config, also the one inside text_config; nullptr when there is none.
const nlohmann::ordered_json* quantization_config(const nlohmann::ordered_json& config);

// From config.json, else, when there are packed weights to explain, from quant_config.json or quantize_config.json
// in `dir`; empty when there is none.
std::optional<AwqConfig> read_awq_config(const std::filesystem::path& dir,
                                         const nlohmann::ordered_json& config, bool has_packed_weights);

}  // namespace awq
