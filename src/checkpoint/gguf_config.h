// config.json and generation_config.json made from GGUF metadata (docs/formats.md, section h).
#pragma once
#include <nlohmann/json_fwd.hpp>

#include "checkpoint/gguf_names.h"
#include "formats/gguf.h"

namespace awq {

// kBadFile for missing or impossible numbers, kUnsupported for what config.json of this architecture cannot
// say (per-layer head counts, experts, rope factors that no known scaling gives). Errors name file and key or
// tensor.
nlohmann::ordered_json config_from_gguf(const GgufFile& gguf, const GgufArch& arch);
nlohmann::ordered_json generation_config_from_gguf(const GgufFile& gguf);

}  // namespace awq
