// What a gemma2 or gemma3 GGUF file's configuration says beyond that of a llama.
#pragma once
#include <nlohmann/json_fwd.hpp>

#include "checkpoint/gguf_names.h"
#include "formats/gguf.h"

namespace awq {

// Sets in `json` the activation, the windows, the scale of attention scores, the caps, and for gemma3 the rotation of each kind
// of layer; num_hidden_layers, num_attention_heads, hidden_size and head_dim are there already, `rope` is the rotation of full
// attention. Files do not say the scale: as in llama.cpp, the 27B models (46 layers of gemma2, 62 of gemma3) have
// (hidden / heads)^-1/2, all others head_dim^-1/2. kUnsupported or kBadFile names the key.
void add_gemma_keys(const GgufFile& gguf, const GgufArch& arch, const nlohmann::ordered_json& rope, nlohmann::ordered_json& json);

}  // namespace awq
