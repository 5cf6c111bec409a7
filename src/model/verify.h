// Whether a checkpoint holds what its configuration promises, and whether other serving systems would take it
// by the rules they are known to apply. Nothing of those systems is run.
#pragma once
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/verify.h"
#include "model/config.h"

namespace awq {

// Names, shapes, dtypes and values of all tensors: rules "missing", "unexpected", "shape", "dtype",
// "nonfinite", "zero_scale" and "symmetric_zero" of docs/formats.md. Reads every tensor.
std::vector<Finding> verify_tensors(const Checkpoint& checkpoint, const ModelConfig& config);

enum class ServingSystem { kVllm, kSglang, kTgi, kTransformers };
std::optional<ServingSystem> serving_system(
    std::string_view name);                             // "vllm", "sglang", "tgi", "transformers"
const char* serving_system_name(ServingSystem system);  // with the version the rules were read in

// One row of the table in serving_rules.cpp: docs/formats.md lists them.
struct ServingRule {
  const char* id;
  const char* demand;
};
std::vector<ServingRule> serving_rules(ServingSystem system);

// From names, shapes and settings alone.
std::vector<Finding> check_serving_rules(const Checkpoint& checkpoint, const ModelConfig& config,
                                         ServingSystem system);

// All of it for a folder or a .gguf file, damaged ones included: what cannot be read is a finding ("open",
// "config"). Throws kNotFound when there is nothing at `path`.
std::vector<Finding> verify_checkpoint(const std::filesystem::path& path,
                                       std::optional<ServingSystem> system);

}  // namespace awq
