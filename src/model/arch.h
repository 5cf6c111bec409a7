// One declaration per architecture serves loading, running, quantizing and planning: which linears a block has, where
// each reads from, and therefore which scales may be folded where. Unknown wiring is an error, never a default.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "model/config.h"

namespace awq {

// The four places of a block whose activations feed linears: one Gram matrix each.
enum class Site : uint8_t { kAttentionIn, kAttentionOut, kMlpIn, kMlpDown };
const char* site_name(Site site);

struct LinearSpec {
  std::string module;  // "model.layers.3.self_attn.q_proj"; tensors are <module>.weight and <module>.bias
  std::string role;    // "q_proj", ... the last component
  Site reads = Site::kAttentionIn;
  int64_t out = 0, in = 0;
  bool bias = false;
};

// How a scale on a site's channels is undone in what produces them (AWQ paper section 3.2; docs/design.md):
// kNorm: divide the norm's gain. kRows: divide row c of the producing linear (and its bias).
// kKvHeads: the producer is v_proj under grouped queries; channel (query head h, d) comes from row
// (h / (heads/kv_heads), d), so the scale must be equal over the query heads that share a key/value head.
enum class Fold : uint8_t { kNorm, kRows, kKvHeads };

struct ScaleGroup {
  Site site = Site::kAttentionIn;
  Fold fold = Fold::kNorm;
  std::string producer;                // norm tensor without ".weight", or the module of the producing linear
  std::vector<std::string> consumers;  // modules; every reader of the site
};

struct BlockSpec {
  std::string prefix;  // "model.layers.3."
  std::string input_norm, post_norm;
  std::vector<LinearSpec> linears;  // in the order they are stored and quantized: q k v o gate up down
  std::vector<ScaleGroup> scale_groups;
  const LinearSpec& linear(const std::string& role) const;
};

struct ArchSpec {
  const char* model_type;
  BlockSpec (*block)(const ModelConfig& config, int64_t layer);
};

// The readable index of what exists; kUnsupported names the known model types.
// `where` names the file in the error.
const ArchSpec& find_arch(const std::string& model_type, const std::string& where);
std::vector<std::string> known_archs();

// Tensor names outside the blocks.
inline constexpr const char* kEmbedName = "model.embed_tokens.weight";
inline constexpr const char* kFinalNormName = "model.norm.weight";
inline constexpr const char* kHeadName = "lm_head.weight";

}  // namespace awq
