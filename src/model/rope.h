// Rotary position embeddings (RoFormer, Su et al. 2021) and the ways published models stretch them to longer contexts,
// with the formulas of transformers' modeling_rope_utils.
#pragma once
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace awq {

enum class RopeType : uint8_t { kDefault, kLinear, kDynamic, kLlama3, kYarn, kLongRope };
const char* rope_type_name(RopeType type);  // config.json's spelling

struct RopeConfig {
  RopeType type = RopeType::kDefault;
  int64_t dim = 0;  // rotated elements of a head, its first ones; even
  double theta = 10000;
  double factor = 1;
  double low_freq_factor = 1, high_freq_factor = 4;  // llama3
  double beta_fast = 32, beta_slow = 1;              // yarn
  bool truncate = true;                              // yarn: the ramp's ends are whole numbers
  std::vector<double> short_factor, long_factor;     // longrope, one divisor per pair
  double original_max_position = 8192;               // llama3, yarn, longrope; dynamic: the length it starts beyond
  double magnitude = 1;                              // cosines and sines are multiplied by it (yarn, longrope)

  // Whether a sequence of more than original_max_position tokens is rotated differently from its first token on.
  bool depends_on_length() const { return type == RopeType::kDynamic || type == RopeType::kLongRope; }
};

// What of a model the settings refer to.
struct RopeContext {
  int64_t head_dim = 0;
  int64_t max_position = 0;               // max_position_embeddings
  double default_original_position = 0;   // where config.json leaves it out; 0: max_position
  double default_theta = 10000;
};

// rope_parameters (transformers 5), or rope_theta and rope_scaling (4). kUnsupported for an unknown type or settings that
// differ between layers, kBadFile for impossible numbers.
RopeConfig parse_rope(const nlohmann::ordered_json& config, const RopeContext& context, const std::string& where);

// Of architectures whose layers with a window rotate in another way: rope_parameters holds a set for "full_attention" and one for
// "sliding_attention" (5), or rope_theta and rope_scaling are those of full attention and rope_local_base_freq is the other's theta (4).
struct LayerRopes {
  RopeConfig full, window;
};
LayerRopes parse_layer_ropes(const nlohmann::ordered_json& config, const RopeContext& context, double default_window_theta,
                             const std::string& where);

// Inverse frequencies of the dim/2 rotated pairs for a sequence of `length` tokens; 0 means a short one.
std::vector<double> rope_inv_freq(const RopeConfig& rope, int64_t length = 0);

}  // namespace awq
