#include "model/arch.h"

#include "base/error.h"

namespace awq {

// src/model/arch/*.cpp: one wiring each.
BlockSpec llama_block(const ModelConfig& config, int64_t layer);
BlockSpec phi3_block(const ModelConfig& config, int64_t layer);
BlockSpec gemma_block(const ModelConfig& config, int64_t layer);

namespace {

constexpr ArchSpec kArchs[] = {
    {.model_type = "llama", .block = llama_block, .biases = BiasRule::kAttentionAndMlp, .defaults = {}},
    {.model_type = "mistral",
     .block = llama_block,
     .window = WindowRule::kEveryLayer,
     .defaults = {.kv_heads = 8, .max_position = 131072, .sliding_window = 4096}},
    {.model_type = "ministral",
     .block = llama_block,
     .window = WindowRule::kEveryLayer,
     .defaults = {.kv_heads = 8, .max_position = 131072, .sliding_window = 4096}},
    {.model_type = "qwen2",
     .block = llama_block,
     .biases = BiasRule::kQkv,
     .window = WindowRule::kUpperLayers,
     .defaults = {.kv_heads = 32, .max_position = 32768, .sliding_window = 4096}},
    {.model_type = "qwen3",
     .block = llama_block,
     .biases = BiasRule::kAttention,
     .window = WindowRule::kUpperLayers,
     .qk_norm = true,
     .defaults = {.kv_heads = 32, .head_dim = 128, .max_position = 32768, .sliding_window = 4096}},
    {.model_type = "phi3",
     .block = phi3_block,
     .window = WindowRule::kEveryLayer,
     .defaults = {.max_position = 4096, .rms_eps = 1e-5, .original_max_position = 4096}},
    {.model_type = "gemma2",
     .block = gemma_block,
     .biases = BiasRule::kAttention,
     .window = WindowRule::kPattern,
     .gemma = true,
     .defaults = {.kv_heads = 4, .head_dim = 256, .max_position = 8192, .sliding_window = 4096, .window_pattern = 2,
                  .attention_softcap = 50, .final_softcap = 30}},
    {.model_type = "gemma3_text",
     .block = gemma_block,
     .biases = BiasRule::kAttention,
     .window = WindowRule::kPattern,
     .qk_norm = true,
     .gemma = true,
     .defaults = {.kv_heads = 4, .head_dim = 256, .max_position = 131072, .sliding_window = 4096, .window_pattern = 6,
                  .rope_theta = 1e6, .window_theta = 1e4}},
};

}  // namespace

const ArchSpec& find_arch(const std::string& model_type, const std::string& where) {
  for (const ArchSpec& arch : kArchs)
    if (model_type == arch.model_type) return arch;
  std::string known;
  for (const ArchSpec& arch : kArchs) known += (known.empty() ? "" : ", ") + std::string(arch.model_type);
  fail(Code::kUnsupported, "{}: model_type '{}' is not supported (known: {})", where, model_type, known);
}

std::vector<std::string> known_archs() {
  std::vector<std::string> names;
  for (const ArchSpec& arch : kArchs) names.emplace_back(arch.model_type);
  return names;
}

const char* site_name(Site site) {
  switch (site) {
    case Site::kAttentionIn: return "attention_in";
    case Site::kAttentionOut: return "attention_out";
    case Site::kMlpIn: return "mlp_in";
    case Site::kMlpDown: return "mlp_down";
  }
  return "?";
}

const LinearSpec& BlockSpec::linear(const std::string& role) const {
  for (const LinearSpec& l : linears)
    if (l.role == role) return l;
  fail(Code::kInternal, "internal error: block {} has no linear '{}'", prefix, role);
}

std::vector<NormSpec> BlockSpec::norms(const ModelConfig& config) const {
  std::vector<NormSpec> all = {{input_norm, config.hidden}};
  if (!q_norm.empty()) all.push_back({q_norm, config.head_dim});
  if (!k_norm.empty()) all.push_back({k_norm, config.head_dim});
  if (!attention_out_norm.empty()) all.push_back({attention_out_norm, config.hidden});
  all.push_back({post_norm, config.hidden});
  if (!mlp_out_norm.empty()) all.push_back({mlp_out_norm, config.hidden});
  return all;
}

}  // namespace awq
