// The softmax weights of causal attention, which the fused operations never form: for observers that show them.
#pragma once
#include <cstdint>

#include "kernels/ops.h"

namespace awq {

// One sequence of `tokens` tokens from position 0. q [tokens, heads, head_dim] and k [tokens, kv_heads, head_dim], both
// rotated, with row stride ld. out [heads, tokens, tokens]: rows sum to 1, entries outside the causal window are 0.
void attention_weights(const AttentionShape& shape, int64_t tokens, const float* q, const float* k, int64_t ld, float* out);

}  // namespace awq
