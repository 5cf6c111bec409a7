// What config.json says about a decoder, in one plain struct. Accepts the spellings of transformers 4
// (rope_theta, rope_scaling, torch_dtype) and 5 (rope_parameters, dtype).
#pragma once
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace awq {

enum class RopeType : uint8_t { kDefault, kLinear, kLlama3 };

struct RopeConfig {
  RopeType type = RopeType::kDefault;
  double theta = 10000;
  double factor = 1;
  double low_freq_factor = 1, high_freq_factor = 4;  // llama3
  double original_max_position = 8192;               // llama3
};

struct ModelConfig {
  std::string model_type;  // "llama", "qwen2"
  int64_t hidden = 0, intermediate = 0, layers = 0;
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
  int64_t vocab = 0, max_position = 0;
  float rms_eps = 1e-6f;
  RopeConfig rope;
  bool tied = false;
  bool qkv_bias = false, o_bias = false, mlp_bias = false;
  int64_t sliding_window = 0;  // 0: none
  std::vector<int32_t> eos;    // from eos_token_id, a number or a list
  int32_t bos = -1;            // -1: none
};

// `where` names the file in errors: kUnsupported for an unknown model_type (names the known ones), rope type or activation,
// kBadFile for missing or impossible numbers.
ModelConfig parse_model_config(const nlohmann::ordered_json& config, const std::string& where);

// Inverse frequencies of the head_dim/2 rotated pairs, with linear or llama3 scaling applied
// (facts: transformers' modeling_rope_utils; llama3: wavelengths beyond original/low are divided by factor, below
// original/high kept, blended between).
std::vector<double> rope_inv_freq(const ModelConfig& config);

}  // namespace awq
