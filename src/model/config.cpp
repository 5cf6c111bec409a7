#include "model/config.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "model/arch.h"
#include "model/config_reader.h"

namespace awq {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kMaxLayers = 4096;

std::vector<int32_t> token_ids(const ConfigReader& r, const char* key) {
  std::vector<int32_t> ids;
  if (const Json* v = r.find(key)) {
    if (v->is_number_integer()) ids.push_back(v->get<int32_t>());
    if (v->is_array())
      for (const Json& e : *v)
        if (e.is_number_integer()) ids.push_back(e.get<int32_t>());
  }
  return ids;
}

void read_biases(const ConfigReader& r, BiasRule rule, ModelConfig& c) {
  const bool asked = rule != BiasRule::kNone && rule != BiasRule::kQkv && r.flag("attention_bias", false);
  c.qkv_bias = rule == BiasRule::kQkv || asked;
  c.o_bias = asked;
  c.mlp_bias = rule == BiasRule::kAttentionAndMlp && r.flag("mlp_bias", false);
}

// layer_types names each layer's kind of attention.
std::vector<bool> full_layers(const ConfigReader& r, const Json& types, const ModelConfig& c, const std::string& where) {
  if (!types.is_array() || static_cast<int64_t>(types.size()) != c.layers)
    fail(Code::kBadFile, "{}: 'layer_types': expected a list of {} names, got {}", where, c.layers,
         types.is_array() ? std::to_string(types.size()) : types.dump());
  std::vector<bool> full;
  for (const Json& type : types) {
    if (!type.is_string()) r.wrong("layer_types", "names", type);
    const auto name = type.get<std::string>();
    if (name != "full_attention" && name != "sliding_attention")
      fail(Code::kUnsupported, "{}: layer type '{}' is not supported (known: full_attention, sliding_attention)", where, name);
    full.push_back(name == "full_attention");
  }
  return full;
}

void read_window(const ConfigReader& r, const ArchSpec& arch, const std::string& where, ModelConfig& c) {
  const bool asked = r.flag("use_sliding_window", false);
  if (asked && arch.window != WindowRule::kUpperLayers)
    fail(Code::kUnsupported, "{}: use_sliding_window is not supported for model_type '{}'", where, c.model_type);
  if (arch.window == WindowRule::kNone || (arch.window == WindowRule::kUpperLayers && !asked)) return;
  // An explicit null switches the window off; a file that does not mention it means the architecture's own.
  c.sliding_window = r.has("sliding_window") ? r.size("sliding_window", 0) : arch.defaults.sliding_window;
  if (c.sliding_window == 0) return;
  if (const Json* types = r.find("layer_types")) {
    c.full_layers = full_layers(r, *types, c, where);
  } else if (arch.window == WindowRule::kUpperLayers) {
    const int64_t first = r.size("max_window_layers", 28);
    for (int64_t i = 0; i < c.layers; ++i) c.full_layers.push_back(i < first);
  } else if (arch.window == WindowRule::kPattern) {
    const int64_t every = r.positive("sliding_window_pattern", arch.defaults.window_pattern);
    for (int64_t i = 0; i < c.layers; ++i) c.full_layers.push_back((i + 1) % every == 0);
  }
}

void read_activation(const ConfigReader& r, const ArchSpec& arch, const std::string& where, ModelConfig& c) {
  const char *key = arch.gemma ? "hidden_activation" : "hidden_act", *known = arch.gemma ? "gelu_pytorch_tanh" : "silu";
  const std::string name = r.text(key, known);
  if (name != known) fail(Code::kUnsupported, "{}: {} '{}' is not supported (known: {})", where, key, name, known);
  c.activation = arch.gemma ? Activation::kGeluTanh : Activation::kSilu;
}

float read_softcap(const ConfigReader& r, const char* key, double fallback, const std::string& where) {
  const double cap = r.has(key) ? r.number(key, 0) : fallback;
  if (!(cap >= 0 && cap < 1e6)) fail(Code::kBadFile, "{}: '{}': expected a positive number or null, got {}", where, key, cap);
  return static_cast<float>(cap);
}

void read_gemma(const ConfigReader& r, const ArchSpec& arch, const std::string& where, ModelConfig& c) {
  if (r.flag("use_bidirectional_attention", false))
    fail(Code::kUnsupported, "{}: use_bidirectional_attention is not supported: expected causal attention", where);
  c.norm_offset = 1;
  c.scaled_embedding = true;
  const double scalar = r.number("query_pre_attn_scalar", 256);
  if (!(scalar > 0 && scalar < 1e6)) fail(Code::kBadFile, "{}: 'query_pre_attn_scalar': expected a positive number, got {}", where, scalar);
  c.attention_scale = static_cast<float>(1 / std::sqrt(scalar));
  c.attention_softcap = read_softcap(r, "attn_logit_softcapping", arch.defaults.attention_softcap, where);
  c.final_softcap = read_softcap(r, "final_logit_softcapping", arch.defaults.final_softcap, where);
}

void read_rope(const Json& config, const ArchSpec& arch, const std::string& where, ModelConfig& c) {
  const RopeContext context{c.head_dim, c.max_position, arch.defaults.original_max_position, arch.defaults.rope_theta};
  if (arch.defaults.window_theta == 0) {
    c.rope = parse_rope(config, context, where);
    return;
  }
  const LayerRopes ropes = parse_layer_ropes(config, context, arch.defaults.window_theta, where);
  c.rope = ropes.full;
  c.window_rope = ropes.window;
}

void check_shapes(const ModelConfig& c, const std::string& where) {
  if (c.heads % c.kv_heads != 0)
    fail(Code::kBadFile, "{}: num_attention_heads {} is not a multiple of num_key_value_heads {}", where, c.heads, c.kv_heads);
  if (c.head_dim % 2 != 0 || c.head_dim == 0)
    fail(Code::kBadFile, "{}: head_dim: expected an even number, got {}", where, c.head_dim);
  if (c.layers > kMaxLayers) fail(Code::kBadFile, "{}: 'num_hidden_layers': expected at most {}, got {}", where, kMaxLayers, c.layers);
  for (int64_t v : {c.hidden, c.intermediate, c.heads, c.vocab, c.head_dim})
    if (v > (int64_t{1} << 30)) fail(Code::kBadFile, "{}: a dimension of {} is beyond any model", where, v);
}

// Dynamic scaling and YaRN are switched on to go beyond the length in the file.
int64_t longest_sequence(const ModelConfig& c) {
  const bool stretched = c.rope.type == RopeType::kDynamic || c.rope.type == RopeType::kYarn;
  const double reach = stretched ? c.rope.original_max_position * c.rope.factor : 0;
  return std::max(c.max_position, static_cast<int64_t>(std::min(reach, 1e9)));
}

}  // namespace

ModelConfig parse_model_config(const Json& config, const std::string& where) {
  if (!config.is_object()) fail(Code::kBadFile, "{}: expected a JSON object", where);
  const ConfigReader r(config, where);
  ModelConfig c;
  c.model_type = r.text("model_type", "");
  const ArchSpec& arch = find_arch(c.model_type, where);
  c.hidden = r.required("hidden_size");
  c.intermediate = r.required("intermediate_size");
  c.layers = r.required("num_hidden_layers");
  c.heads = r.required("num_attention_heads");
  const bool says_kv_heads = r.has("num_key_value_heads") || arch.defaults.kv_heads == 0;
  c.kv_heads = r.positive("num_key_value_heads", says_kv_heads ? c.heads : arch.defaults.kv_heads);
  c.head_dim = r.size("head_dim", r.has("head_dim") ? 0 : arch.defaults.head_dim);
  if (c.head_dim == 0) c.head_dim = c.hidden / c.heads;
  c.vocab = r.required("vocab_size");
  c.max_position = r.size("max_position_embeddings", arch.defaults.max_position);
  const double eps = r.number("rms_norm_eps", arch.defaults.rms_eps);
  if (!(eps >= 0 && eps < 1)) fail(Code::kBadFile, "{}: 'rms_norm_eps': expected a number from 0 to 1, got {}", where, eps);
  c.rms_eps = static_cast<float>(eps);
  c.tied = r.flag("tie_word_embeddings", arch.gemma);
  read_activation(r, arch, where, c);
  c.qk_norm = arch.qk_norm;
  read_biases(r, arch.biases, c);
  check_shapes(c, where);
  read_window(r, arch, where, c);
  c.attention_scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim));
  if (arch.gemma) read_gemma(r, arch, where, c);
  read_rope(config, arch, where, c);
  c.max_position = longest_sequence(c);
  c.eos = token_ids(r, "eos_token_id");
  const auto bos = token_ids(r, "bos_token_id");
  c.bos = bos.empty() ? -1 : bos.front();
  return c;
}

}  // namespace awq
