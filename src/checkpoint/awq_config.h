// quantization_config of AWQ checkpoints in all its spellings (docs/formats.md, section j).
#pragma once
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>

#include "checkpoint/checkpoint.h"

namespace awq {

// From config.json's quantization_config (also the one inside text_config), else, when there are packed
// weights to explain, from quant_config.json or quantize_config.json in `dir`; empty when there is none.
// kUnsupported for other methods, naming them, and for AWQ layouts other than gemm; kBadFile for values of
// the wrong kind.
std::optional<AwqConfig> read_awq_config(const std::filesystem::path& dir,
                                         const nlohmann::ordered_json& config, bool has_packed_weights);

}  // namespace awq
