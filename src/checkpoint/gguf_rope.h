// Rope settings of a GGUF file in config.json's terms.
#pragma once
#include <nlohmann/json_fwd.hpp>

#include "checkpoint/gguf_names.h"
#include "formats/gguf.h"

namespace awq {

// {"rope_type": "default" | "linear" | "yarn" | "longrope" | "llama3", "rope_theta": ..., ...} for `rotated` elements of a
// head. longrope's divisors are the tensors rope_factors_short.weight and rope_factors_long.weight [rotated/2]. Llama 3's scaling is stored only as its effect, the tensor rope_freqs.weight [rotated/2] of divisors; its
// parameters are found again by recomputing the divisors of the published settings and comparing.
// kUnsupported when none gives them.
nlohmann::ordered_json rope_parameters_from_gguf(const GgufFile& gguf, const GgufArch& arch,
                                                 int64_t rotated);

}  // namespace awq
