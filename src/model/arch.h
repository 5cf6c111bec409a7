// One declaration per architecture serves loading, running, quantizing and planning: what config.json leaves out, which
// linears a block has, where each reads from, and therefore which scales may be folded where. Unknown wiring is an error,
// never a default.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "model/config.h"

namespace awq {

// The four places of a block whose activations feed linears: one Gram matrix each.
enum class Site : uint8_t { kAttentionIn, kAttentionOut, kMlpIn, kMlpDown };
const char* site_name(Site site);

// A linear as it is stored: its rows may be several logical ones below each other (phi3's qkv_proj: q, k, v).
struct LinearSpec {
  std::string module;  // "model.layers.3.self_attn.q_proj"; tensors are <module>.weight and <module>.bias
  std::string role;    // "q_proj", ... the last component
  Site reads = Site::kAttentionIn;
  int64_t out = 0, in = 0;
  bool bias = false;
};

// How a scale on a site's channels is undone in what produces them (AWQ paper section 3.2; docs/architectures.md):
// kNorm: divide the norm's gain. kRows: divide row c of the producing linear (and its bias).
// kKvHeads: the producer computes the values under grouped queries; channel (query head h, d) comes from row
// (h / (heads/kv_heads), d), so the scale must be equal over the query heads that share a key/value head.
enum class Fold : uint8_t { kNorm, kRows, kKvHeads };

struct ScaleGroup {
  Site site = Site::kAttentionIn;
  Fold fold = Fold::kNorm;
  std::string producer;                // norm tensor without ".weight", or the module of the producing linear
  std::vector<std::string> consumers;  // modules; every reader of the site
  int64_t producer_row = 0;            // first of the producing linear's rows that take part, where others lie above
};

struct NormSpec {
  std::string name;  // tensor without ".weight"
  int64_t dim = 0;
};

struct BlockSpec {
  std::string prefix;  // "model.layers.3."
  int64_t layer = 0;
  std::string input_norm, post_norm;  // in front of the attention and of the MLP
  std::string attention_out_norm, mlp_out_norm;  // over what is added to the residual stream; empty where there are none
  std::string q_norm, k_norm;  // over each head; empty where there are none
  int64_t window = 0;          // sliding window in tokens; 0: none
  // In the order they are stored and quantized. The linears that read a site, in this order, give q k v, the attention's
  // output, gate up, and the MLP's output.
  std::vector<LinearSpec> linears;
  std::vector<ScaleGroup> scale_groups;

  const LinearSpec& linear(const std::string& role) const;
  std::vector<NormSpec> norms(const ModelConfig& config) const;  // those the block has, in the order they are stored
};

enum class BiasRule : uint8_t {
  kNone,             // none at all
  kQkv,              // always on q, k and v
  kAttention,        // attention_bias: q, k, v and o
  kAttentionAndMlp,  // and mlp_bias: gate, up and down
};

enum class WindowRule : uint8_t {
  kNone,         // full attention whatever the file says
  kEveryLayer,   // sliding_window holds in every layer, or in those of layer_types
  kUpperLayers,  // use_sliding_window switches it on: from layer max_window_layers up, or in those of layer_types
  kPattern,      // all but every sliding_window_pattern-th layer have it, or those of layer_types
};

// What a config.json that does not mention a key means (transformers' configuration classes).
struct ConfigDefaults {
  int64_t kv_heads = 0;  // 0: as many as heads
  int64_t head_dim = 0;  // 0: hidden / heads
  int64_t max_position = 2048;
  int64_t sliding_window = 0;
  double rms_eps = 1e-6;
  double original_max_position = 0;  // 0: max_position
  int64_t window_pattern = 0;
  double rope_theta = 10000;
  double window_theta = 0;  // of the layers with a window; 0: they rotate as the others do
  double attention_softcap = 0, final_softcap = 0;
};

struct ArchSpec {
  const char* model_type;
  BlockSpec (*block)(const ModelConfig& config, int64_t layer);
  BiasRule biases = BiasRule::kNone;
  WindowRule window = WindowRule::kNone;
  bool qk_norm = false;
  bool gemma = false;  // gains are 1 + w, embeddings are scaled, gates go through gelu, a key names the scale of the scores, tied
  ConfigDefaults defaults;
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
