// The fused-step operations of a decoder layer on the CPU. All pointers are row-major float32 unless said
// otherwise; all functions use base/thread_pool.h and give the same bits for any number of threads. None
// allocates after warm-up beyond thread-local scratch. `reference/` holds a slow double-precision version of
// each with the same signature (namespace awq::reference), used by the tests.
#pragma once
#include <cstdint>
#include <span>

#include "tensor/tensor.h"

namespace awq {

// y[t] = x[t] / sqrt(mean(x[t]^2) + eps) * (weight + weight_offset). x, y [tokens, dim]; y may be x.
// weight_offset is 1 for the Gemma family.
void rms_norm(const float* x, const float* weight, float weight_offset, float eps, int64_t tokens, int64_t dim, float* y);

// x += y, n elements.
void add_inplace(float* x, const float* y, int64_t n);
// x[t] += bias for every row t; x [tokens, dim] with row stride ldx.
void add_bias(float* x, int64_t ldx, const float* bias, int64_t tokens, int64_t dim);

// y[t][i] = silu(gate_up[t][i]) * gate_up[t][dim + i]; gate_up [tokens, 2*dim], y [tokens, dim].
void silu_mul(const float* gate_up, int64_t tokens, int64_t dim, float* y);
// The same with gelu in its tanh form (Hendrycks and Gimpel 2016): x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).
void gelu_mul(const float* gate_up, int64_t tokens, int64_t dim, float* y);
// x = cap * tanh(x / cap), n elements.
void softcap(float* x, float cap, int64_t n);

// Rows of the embedding table (F32, F16 or BF16 [vocab, dim]) to float. Throws kBadArgument on an id outside.
void embed(const Tensor& table, std::span<const int32_t> ids, float* y);

// Rotary position embedding, "rotate half" pairing: element i pairs with i + rotary_dim/2. Angle of pair i at
// position p is p * inv_freq[i], computed in double; cos and sin are multiplied by `magnitude`.
// x [tokens, heads, head_dim] with row stride ldx; only the first 2*inv_freq.size() elements of a head turn.
void rope(float* x, int64_t ldx, int64_t tokens, int64_t heads, int64_t head_dim, std::span<const int32_t> positions,
          std::span<const double> inv_freq, float magnitude);

constexpr int kPageTokens = 16;

// One layer's key/value cache: pages of kPageTokens tokens. Page p starts at base + p * page_bytes() and holds keys
// [kv_heads, head_dim, kPageTokens] followed by values [kv_heads, kPageTokens, head_dim], in `dtype` (F32, F16, BF16): a vector
// of one element of 16 keys is what a query's element multiplies, and a value is what a weight multiplies, so that a decoding
// step rearranges nothing. In I8 each key and each value is q * scale, q -127..127 and scale the largest magnitude / 127, and
// the scales, F32 [kv_heads, kPageTokens], stand behind the keys and behind the values.
struct KvLayerView {
  std::byte* base = nullptr;
  DType dtype = DType::kF32;
  int64_t kv_heads = 0, head_dim = 0;
  int64_t head_bytes() const { return kPageTokens * head_dim * dtype_size(dtype); }  // of the keys, or the values, of a page
  int64_t scales_at() const { return kv_heads * head_bytes(); }                      // in half a page
  int64_t page_bytes() const { return 2 * (scales_at() + (dtype == DType::kI8 ? kv_heads * kPageTokens * 4 : 0)); }
};

// A run of consecutive tokens of one sequence inside a batch. The batch is the concatenation of its spans.
struct SpanView {
  int64_t first = 0;             // index of the span's first token in the batch
  int64_t tokens = 0;            // tokens in this step
  int64_t past = 0;              // tokens of this sequence already in the cache
  const int32_t* pages = nullptr;  // page numbers covering past + tokens tokens
};

// Writes keys and values [tokens, kv_heads, head_dim] (row stride ld) of the batch into the cache.
void kv_write(const KvLayerView& cache, std::span<const SpanView> spans, const float* k, const float* v, int64_t ld);

struct AttentionShape {
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
  float scale = 0;         // usually 1/sqrt(head_dim)
  int64_t window = 0;      // sliding window in tokens, 0: none; query at p sees keys in (p - window, p]
  float softcap = 0;       // scaled scores s become softcap * tanh(s / softcap) before the softmax; 0: they stay
};

// Causal attention with grouped queries, online softmax over blocks of keys (FlashAttention, Dao et al. 2022).
// q [tokens, heads, head_dim] row stride ldq; y [tokens, heads * head_dim]. Keys and values, those of this step
// included, are read from the cache.
void attention_paged(const AttentionShape& shape, const KvLayerView& cache, std::span<const SpanView> spans, const float* q,
                     int64_t ldq, float* y);
// The same without a cache: every span starts at position 0 (past must be 0) and keys and values come from
// k, v [tokens, kv_heads, head_dim] with row stride ldkv. Used by calibration and perplexity.
void attention_dense(const AttentionShape& shape, std::span<const SpanView> spans, const float* q, int64_t ldq, const float* k,
                     const float* v, int64_t ldkv, float* y);

// For each row t: logprob[t] = log softmax(logits[t])[target[t]]; logits [tokens, vocab], sums in double.
void log_softmax_gather(const float* logits, int64_t tokens, int64_t vocab, const int32_t* target, double* logprob);
// For each row t: kl[t] = sum_v p (ln p - ln q) with p = softmax(p_logits[t]), q = softmax(q_logits[t]), sums in
// double; same_top[t] = 1 when both rows have their maximum at the same index (first index on ties).
void kl_divergence(const float* p_logits, const float* q_logits, int64_t tokens, int64_t vocab, double* kl, uint8_t* same_top);

// y [m, n] (row stride ldy) = x [m, k] (row stride ldx) times w [n, k] (row stride ldw) transposed; fp32.
void gemm_nt(const float* x, int64_t ldx, const float* w, int64_t ldw, float* y, int64_t ldy, int64_t m, int64_t n, int64_t k);

}  // namespace awq
