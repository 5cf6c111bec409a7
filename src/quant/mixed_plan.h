// Which scheme each linear gets: the file that `awq diagnose -o` writes and `awq quantize --plan` reads.
//
//   {"schema": "awq.plan/1", "model": "SmolLM2", "base": {"bits": 4, "group_size": 64},
//    "units": [{"modules": ["model.layers.0.mlp.down_proj"], "bits": 8, "group_size": 64}, {"modules": [...],
//    "bits": 16}]}
//
// Linears that no unit names get the base. Zero points are integers unless the bits are 8 or "symmetric" is
// true. Other keys, such as what diagnose expects of the plan, are for the reader.
#pragma once
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "weights/quant_weight.h"

namespace awq {

struct MixedUnit {
  std::vector<std::string> modules;  // full names, without ".weight"
  Scheme scheme;                     // bits 16: stays as it is
};
inline constexpr int kDenseBits = 16;

struct MixedPlan {
  std::string where;  // the file, for messages
  std::string model;
  Scheme base;
  std::vector<MixedUnit> units;
};

// bits 2 to 8 or 16; group -1 or at least 8. 8 bits are symmetric, the only form in which vLLM takes them
// with groups.
Scheme mixed_scheme(int bits, int group, bool symmetric);

// kBadFile names the file, what was expected and what was found; kNotFound.
MixedPlan read_mixed_plan(const std::filesystem::path& path);
// Without the keys that are for the reader; they can be added.
nlohmann::ordered_json mixed_plan_json(const MixedPlan& plan);

}  // namespace awq
