// Gemma 2 and 3 (Gemma Team 2024, 2025): a llama-shaped block whose attention and MLP have a norm behind them as well, over
// what they add to the residual stream. Those two norms feed no linear, so no scale is folded into them:
//
//   input_layernorm           -> q_proj k_proj v_proj   (gemma3 normalises q and k afterwards)
//   v_proj rows, per kv head  -> o_proj
//   pre_feedforward_layernorm -> gate_proj up_proj
//   up_proj rows              -> down_proj
#include "model/arch.h"

namespace awq {

BlockSpec llama_block(const ModelConfig& config, int64_t layer);

BlockSpec gemma_block(const ModelConfig& c, int64_t layer) {
  BlockSpec b = llama_block(c, layer);
  b.attention_out_norm = b.post_norm;  // post_attention_layernorm: llama's name, another place
  b.post_norm = b.prefix + "pre_feedforward_layernorm";
  b.mlp_out_norm = b.prefix + "post_feedforward_layernorm";
  for (ScaleGroup& group : b.scale_groups)
    if (group.site == Site::kMlpIn) group.producer = b.post_norm;
  return b;
}

}  // namespace awq
