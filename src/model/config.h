// What config.json says about a decoder, in one plain struct. Accepts the spellings of transformers 4
// (rope_theta, rope_scaling, torch_dtype) and 5 (rope_parameters, dtype).
#pragma once
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "model/rope.h"

namespace awq {

enum class Activation : uint8_t { kSilu, kGeluTanh };

struct ModelConfig {
  std::string model_type;  // "llama", "qwen2", ...: one of known_archs()
  int64_t hidden = 0, intermediate = 0, layers = 0;
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
  int64_t vocab = 0;
  int64_t max_position = 0;  // tokens the model can attend to, rope scaling included
  float rms_eps = 1e-6f;
  RopeConfig rope;
  std::optional<RopeConfig> window_rope;  // of the layers with a window, where it is another
  bool tied = false;
  bool qkv_bias = false, o_bias = false, mlp_bias = false;
  bool qk_norm = false;            // queries and keys are normalised per head before they are rotated
  int64_t sliding_window = 0;      // tokens a query sees, itself included; 0: all before it
  std::vector<bool> full_layers;   // layers that see everything despite the window; empty: none
  Activation activation = Activation::kSilu;  // of the gate
  float norm_offset = 0;             // a norm's gain is what the checkpoint stores plus this: 1 in the Gemma family
  bool scaled_embedding = false;     // embeddings are multiplied by sqrt(hidden), see embedding_scale
  float attention_scale = 0;         // scores are multiplied by it
  float attention_softcap = 0, final_softcap = 0;  // of scores and of logits: x becomes cap * tanh(x / cap); 0: none
  std::vector<int32_t> eos;        // from eos_token_id, a number or a list
  int32_t bos = -1;                // -1: none

  int64_t window(int64_t layer) const {
    return full_layers.empty() || !full_layers[static_cast<size_t>(layer)] ? sliding_window : 0;
  }
  const RopeConfig& layer_rope(int64_t layer) const { return window_rope && window(layer) > 0 ? *window_rope : rope; }
};

// `where` names the file in errors: kUnsupported for an unknown model_type (names the known ones), rope type or activation,
// kBadFile for missing or impossible numbers.
ModelConfig parse_model_config(const nlohmann::ordered_json& config, const std::string& where);

}  // namespace awq
