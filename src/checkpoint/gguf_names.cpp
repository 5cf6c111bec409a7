#include "checkpoint/gguf_names.h"

namespace awq {
namespace {

constexpr GgufName kGlobal[] = {
    {"token_embd", "model.embed_tokens"},
    {"output_norm", "model.norm"},
    {"output", "lm_head"},
};

constexpr GgufName kLlamaBlock[] = {
    {"attn_norm", "input_layernorm"},    {"attn_q", "self_attn.q_proj"},
    {"attn_k", "self_attn.k_proj"},      {"attn_v", "self_attn.v_proj"},
    {"attn_output", "self_attn.o_proj"}, {"ffn_norm", "post_attention_layernorm"},
    {"ffn_gate", "mlp.gate_proj"},       {"ffn_up", "mlp.up_proj"},
    {"ffn_down", "mlp.down_proj"},
};

constexpr GgufName kQwen3Block[] = {
    {"attn_norm", "input_layernorm"},    {"attn_q", "self_attn.q_proj"},
    {"attn_k", "self_attn.k_proj"},      {"attn_v", "self_attn.v_proj"},
    {"attn_q_norm", "self_attn.q_norm"}, {"attn_k_norm", "self_attn.k_norm"},
    {"attn_output", "self_attn.o_proj"}, {"ffn_norm", "post_attention_layernorm"},
    {"ffn_gate", "mlp.gate_proj"},       {"ffn_up", "mlp.up_proj"},
    {"ffn_down", "mlp.down_proj"},
};

constexpr GgufName kPhi3Block[] = {
    {"attn_norm", "input_layernorm"},      {"attn_qkv", "self_attn.qkv_proj"},
    {"attn_output", "self_attn.o_proj"},   {"ffn_norm", "post_attention_layernorm"},
    {"ffn_up", "mlp.gate_up_proj"},        {"ffn_down", "mlp.down_proj"},
};

constexpr GgufName kGemma2Block[] = {
    {"attn_norm", "input_layernorm"},           {"attn_q", "self_attn.q_proj"},
    {"attn_k", "self_attn.k_proj"},             {"attn_v", "self_attn.v_proj"},
    {"attn_output", "self_attn.o_proj"},        {"post_attention_norm", "post_attention_layernorm"},
    {"ffn_norm", "pre_feedforward_layernorm"},  {"ffn_gate", "mlp.gate_proj"},
    {"ffn_up", "mlp.up_proj"},                  {"ffn_down", "mlp.down_proj"},
    {"post_ffw_norm", "post_feedforward_layernorm"},
};

constexpr GgufName kGemma3Block[] = {
    {"attn_norm", "input_layernorm"},           {"attn_q", "self_attn.q_proj"},
    {"attn_k", "self_attn.k_proj"},             {"attn_v", "self_attn.v_proj"},
    {"attn_q_norm", "self_attn.q_norm"},        {"attn_k_norm", "self_attn.k_norm"},
    {"attn_output", "self_attn.o_proj"},        {"post_attention_norm", "post_attention_layernorm"},
    {"ffn_norm", "pre_feedforward_layernorm"},  {"ffn_gate", "mlp.gate_proj"},
    {"ffn_up", "mlp.up_proj"},                  {"ffn_down", "mlp.down_proj"},
    {"post_ffw_norm", "post_feedforward_layernorm"},
};

constexpr GgufArch kArchs[] = {
    {"llama", "llama", "LlamaForCausalLM", true, kLlamaBlock},
    {"qwen2", "qwen2", "Qwen2ForCausalLM", false, kLlamaBlock},
    {"qwen3", "qwen3", "Qwen3ForCausalLM", false, kQwen3Block, true},
    {"phi3", "phi3", "Phi3ForCausalLM", false, kPhi3Block},
    {"gemma2", "gemma2", "Gemma2ForCausalLM", false, kGemma2Block, true, true},
    {"gemma3", "gemma3_text", "Gemma3ForCausalLM", false, kGemma3Block, true, true},
};

std::optional<std::string_view> translate(std::span<const GgufName> names, std::string_view gguf) {
  for (const GgufName& n : names)
    if (n.gguf == gguf) return n.hf;
  return std::nullopt;
}

}  // namespace

const GgufArch* find_gguf_arch(std::string_view name) {
  for (const GgufArch& a : kArchs)
    if (a.name == name) return &a;
  return nullptr;
}

std::string known_gguf_archs() {
  std::string text;
  for (const GgufArch& a : kArchs) text += (text.empty() ? "" : ", ") + std::string(a.name);
  return text;
}

bool is_rope_tensor(std::string_view gguf_name) {
  return gguf_name == kRopeFreqs || gguf_name == kRopeFactorsLong || gguf_name == kRopeFactorsShort;
}

std::optional<std::string> hf_tensor_name(const GgufArch& arch, std::string_view gguf_name) {
  const size_t dot = gguf_name.rfind('.');
  if (dot == std::string_view::npos) return std::nullopt;
  std::string_view stem = gguf_name.substr(0, dot);
  const std::string_view kind = gguf_name.substr(dot);  // ".weight" or ".bias"
  if (kind != ".weight" && kind != ".bias") return std::nullopt;
  if (!stem.starts_with("blk.")) {
    const auto hf = translate(kGlobal, stem);
    return hf ? std::optional(std::string(*hf) + std::string(kind)) : std::nullopt;
  }
  stem.remove_prefix(4);
  const size_t digits = stem.find_first_not_of("0123456789");
  if (digits == 0 || digits == std::string_view::npos || stem[digits] != '.') return std::nullopt;
  const auto hf = translate(arch.block, stem.substr(digits + 1));
  if (!hf) return std::nullopt;
  return "model.layers." + std::string(stem.substr(0, digits)) + "." + std::string(*hf) + std::string(kind);
}

}  // namespace awq
