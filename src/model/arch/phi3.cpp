// Phi-3 and Phi-4 (Abdin et al. 2024): a llama-shaped block whose projections are stored as one, and stay one:
//
//   input_layernorm                       -> qkv_proj       rows [q | k | v]
//   the v rows of qkv_proj, per kv head   -> o_proj
//   post_attention_layernorm              -> gate_up_proj   rows [gate | up]
//   the up rows of gate_up_proj           -> down_proj
#include "model/arch.h"

namespace awq {

BlockSpec phi3_block(const ModelConfig& c, int64_t layer) {
  BlockSpec b;
  b.prefix = "model.layers." + std::to_string(layer) + ".";
  b.layer = layer;
  b.input_norm = b.prefix + "input_layernorm";
  b.post_norm = b.prefix + "post_attention_layernorm";
  b.window = c.window(layer);
  const std::string qkv = b.prefix + "self_attn.qkv_proj", o = b.prefix + "self_attn.o_proj";
  const std::string gate_up = b.prefix + "mlp.gate_up_proj", down = b.prefix + "mlp.down_proj";
  const int64_t q_rows = c.heads * c.head_dim, kv_rows = c.kv_heads * c.head_dim;
  b.linears = {
      {qkv, "qkv_proj", Site::kAttentionIn, q_rows + 2 * kv_rows, c.hidden, false},
      {o, "o_proj", Site::kAttentionOut, c.hidden, q_rows, false},
      {gate_up, "gate_up_proj", Site::kMlpIn, 2 * c.intermediate, c.hidden, false},
      {down, "down_proj", Site::kMlpDown, c.hidden, c.intermediate, false},
  };
  b.scale_groups = {
      {Site::kAttentionIn, Fold::kNorm, b.input_norm, {qkv}},
      {Site::kAttentionOut, Fold::kKvHeads, qkv, {o}, q_rows + kv_rows},
      {Site::kMlpIn, Fold::kNorm, b.post_norm, {gate_up}},
      {Site::kMlpDown, Fold::kRows, gate_up, {down}, c.intermediate},
  };
  return b;
}

}  // namespace awq
