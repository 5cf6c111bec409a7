// Models of any shape with made-up weights, from a config.json alone: for measuring speed and memory, not
// text.
#pragma once
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "model/model.h"

namespace awq {

struct RandomWeights {
  int bits = 4;  // of the linears in the blocks, 2..8, or 16: bfloat16
  int group =
      128;  // of quantized ones; cut to the largest of 128, 64, 32 that divides all inputs where it does not
  CodeKind code = CodeKind::kAffine;  // of 4 bits also kNf4, in blocks of 64
  bool int8_activations = false;  // of 8 bits: whole rows share a scale, inputs become int8 (w8gc-a8)
  uint64_t seed = 1;
  DType dense = DType::kBF16;  // type of the embedding and of an output layer of its own; F16 or BF16
};

// `where` names the configuration in errors. Weights are about as large as trained ones, so that nothing
// overflows.
std::shared_ptr<const Model> random_model(const nlohmann::ordered_json& config, const std::string& where,
                                          const RandomWeights& weights, const LoadOptions& options);
// One linear [out, in] of such a model.
WeightSource random_weight(int64_t out, int64_t in, const RandomWeights& weights);

}  // namespace awq
