// Llama-shaped blocks (Touvron et al. 2023; llama, mistral, qwen2, qwen3): RMSNorm, grouped-query attention with
// rotate-half RoPE, RMSNorm, SwiGLU. What reads each site, and what produces it:
//
//   input_layernorm          -> q_proj k_proj v_proj   (qwen3 normalises q and k afterwards: the scale is undone before that)
//   v_proj rows, per kv head -> o_proj
//   post_attention_layernorm -> gate_proj up_proj
//   up_proj rows             -> down_proj              (the linear branch of silu(gate) * up; folding into gate is wrong)
#include "model/arch.h"

namespace awq {

BlockSpec llama_block(const ModelConfig& c, int64_t layer) {
  BlockSpec b;
  b.prefix = "model.layers." + std::to_string(layer) + ".";
  b.layer = layer;
  b.input_norm = b.prefix + "input_layernorm";
  b.post_norm = b.prefix + "post_attention_layernorm";
  b.window = c.window(layer);
  const std::string attn = b.prefix + "self_attn.", mlp = b.prefix + "mlp.";
  if (c.qk_norm) {
    b.q_norm = attn + "q_norm";
    b.k_norm = attn + "k_norm";
  }
  const int64_t q = c.heads * c.head_dim, kv = c.kv_heads * c.head_dim;
  b.linears = {
      {attn + "q_proj", "q_proj", Site::kAttentionIn, q, c.hidden, c.qkv_bias},
      {attn + "k_proj", "k_proj", Site::kAttentionIn, kv, c.hidden, c.qkv_bias},
      {attn + "v_proj", "v_proj", Site::kAttentionIn, kv, c.hidden, c.qkv_bias},
      {attn + "o_proj", "o_proj", Site::kAttentionOut, c.hidden, q, c.o_bias},
      {mlp + "gate_proj", "gate_proj", Site::kMlpIn, c.intermediate, c.hidden, c.mlp_bias},
      {mlp + "up_proj", "up_proj", Site::kMlpIn, c.intermediate, c.hidden, c.mlp_bias},
      {mlp + "down_proj", "down_proj", Site::kMlpDown, c.hidden, c.intermediate, c.mlp_bias},
  };
  b.scale_groups = {
      {Site::kAttentionIn, Fold::kNorm, b.input_norm, {attn + "q_proj", attn + "k_proj", attn + "v_proj"}},
      {Site::kAttentionOut, Fold::kKvHeads, attn + "v_proj", {attn + "o_proj"}},
      {Site::kMlpIn, Fold::kNorm, b.post_norm, {mlp + "gate_proj", mlp + "up_proj"}},
      {Site::kMlpDown, Fold::kRows, mlp + "up_proj", {mlp + "down_proj"}},
  };
  return b;
}

}  // namespace awq
