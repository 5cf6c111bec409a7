// What a decoder's step does between its linears, on the device: embedding, norms, rotation and cache, attention, SwiGLU,
// argmax. Activations are fp16 or bf16, the residual stream and all sums fp32. All launches return at once; nothing allocates.
// Kernels start before the work in front of them has ended (launch.h) and wait for it before they touch what it writes. Parameters, and
// what the host sends before a step (Batch), they read before that. Rows are multiples of 4 elements, buffers 16-byte aligned.
#pragma once
#include "kernels/cuda/cache_int8.h"
#include "kernels/cuda/key_parts.h"
#include "kernels/cuda/launch.h"

namespace awq::cuda {

// One layer's cache. Page p starts p * page_bytes() behind base and holds, for each key/value head, keys [16 tokens][head_dim] in the
// activations' type and then values transposed [head_dim][16 tokens]: both are operands of the tensor cores as they lie. In 8 bits:
// cache_int8.h.
struct CacheView {
  void* base = nullptr;
  int kv_heads = 0, head_dim = 0;
  bool int8 = false;
  AWQ_HOST_DEVICE int64_t head_bytes() const { return int8 ? int8_head_bytes(head_dim) : 2 * kCachePage * head_dim * 2; }
  AWQ_HOST_DEVICE int64_t page_bytes() const { return kv_heads * head_bytes(); }
};

// A run of consecutive tokens of one sequence; `pages` is where its page numbers begin in Batch::pages.
struct DeviceSpan {
  int first = 0, tokens = 0, past = 0, pages = 0;
};

// A step's tokens as the kernels see them; device pointers.
struct Batch {
  const int* ids = nullptr;        // [tokens]
  const int* positions = nullptr;  // [tokens]
  const int* span_of = nullptr;    // [tokens]
  const DeviceSpan* spans = nullptr;
  const int* pages = nullptr;
  int tokens = 0, span_count = 0;
};

// residual [tokens, dim] = rows of table [vocab, dim] (fp16 or bf16). Ids are checked by the caller. With x (may be null) also what
// the first norm wants (launch.h, ResidualOutput): x = residual * gain, and `after`, of kEmbedParts parts.
constexpr int kEmbedParts = 16;
struct EmbedArgs {
  Batch batch;
  const void* table = nullptr;
  int dim = 0;
  float* residual = nullptr;
  void* x = nullptr;
  const float* gain = nullptr;
  NormParts after;
};
cudaError_t launch_embed(Act act, const EmbedArgs& args, cudaStream_t stream);

// residual [tokens, dim] += delta + bias (each may be null), then y = residual / rms * gain, rounded; y32 (may be null) gets
// the same in fp32.
struct NormArgs {
  float* residual = nullptr;
  const void* delta = nullptr;
  const float* bias = nullptr;
  const float* gain = nullptr;
  void* y = nullptr;
  float* y32 = nullptr;
  int tokens = 0, dim = 0;
  float eps = 0;
};
cudaError_t launch_add_norm(Act act, const NormArgs& args, cudaStream_t stream);

// qkv [tokens, (heads + 2 kv_heads) * head_dim]: adds the bias, normalises queries and keys per head (gains may be null),
// rotates the first 2 * pairs elements of a head ("rotate half", angles in double), writes queries back and keys and values
// to the cache.
struct RopeArgs {
  Batch batch;
  void* qkv = nullptr;
  const float* bias = nullptr;
  const float *q_gain = nullptr, *k_gain = nullptr;
  const double* inv_freq = nullptr;  // [pairs]
  int pairs = 0, heads = 0;
  float magnitude = 1, eps = 0;
  CacheView cache;
};
cudaError_t launch_rope_cache(Act act, const RopeArgs& args, cudaStream_t stream);

// y[t][i] = silu(gate) * up with gate_up [tokens, 2 dim]: gates and then ups, or by_strips 8 gates and then their 8 ups
// (Output::kGated; dim a multiple of 8); bias [2 dim], gates first, may be null.
cudaError_t launch_silu_mul(Act act, const void* gate_up, const float* bias, bool by_strips, int tokens, int dim, void* y,
                            cudaStream_t stream);

// Causal attention with grouped queries and sliding window (0: none). Prefill and fixed decoding find the step's own keys in the cache;
// launch_attention_decode prepares and writes them (as launch_rope_cache; queries in qkv stay as they are). q are the first heads * head_dim columns of rows of ldq elements; y [tokens, heads * head_dim].
constexpr int kAttentionSplits = 32;
struct AttentionArgs {
  Batch batch;
  CacheView cache;
  const void* q = nullptr;
  void* y = nullptr;
  int64_t ldq = 0;
  int heads = 0, window = 0;
  float scale = 0;
  const int2* tiles = nullptr;  // prefill: span and its number of a tile of 64 rows (token, head of the group)
  int tile_count = 0;
  int splits = 1;             // decode: parts of a sequence's keys
  // [span, heads, splits, head_dim + 2] where splits > 1; of fixed attention [part_slots(pages, spans), heads, head_dim + 2]
  float* partials = nullptr;
  uint32_t* arrivals = nullptr;  // [span, kv_heads], zeros between launches
};
// head_dim 64, 96 or 128 and at most 16 heads per key/value head.
bool attention_takes(int head_dim, int heads, int kv_heads);
// Every span has one token; rope's batch, cache and qkv are those of args.
cudaError_t launch_attention_decode(Act act, const AttentionArgs& args, const RopeArgs& rope, cudaStream_t stream);
cudaError_t launch_attention_prefill(Act act, const AttentionArgs& args, cudaStream_t stream);
// The same with sums ordered by a token's position alone: both give it the same bits, in any batch, chunk and number of splits. Decoding,
// too, finds queries and the new key and value prepared.
cudaError_t launch_fixed_attention_decode(Act act, const AttentionArgs& args, cudaStream_t stream);
cudaError_t launch_fixed_attention_prefill(Act act, const AttentionArgs& args, cudaStream_t stream);

// ids[t] = the first index of the largest of logits [rows, vocab]. scratch: kArgmaxScratch words for each row, zeros at first.
constexpr int kArgmaxParts = 16, kArgmaxScratch = 1 + 2 * kArgmaxParts;
cudaError_t launch_argmax(const float* logits, int rows, int64_t vocab, uint32_t* scratch, int* ids, cudaStream_t stream);
// y [n] = x rounded to the activation type.
cudaError_t launch_round(Act act, const float* x, int64_t n, void* y, cudaStream_t stream);
// y [n] = x [n] widened.
cudaError_t launch_widen(Act act, const void* x, int64_t n, float* y, cudaStream_t stream);

// y [rows, out] in fp32 = x [rows, in] times w transposed, for w of 8-bit codes [out, in] with fp32 scales and zero points
// [out, in / group]: code c stands for (c - zero) * scale. in and group multiples of 16; rows 1 to 8.
cudaError_t launch_head8(Act act, const uint8_t* codes, const float* scales, const float* zeros, int64_t out, int in, int group,
                         const void* x, int rows, float* y, cudaStream_t stream);

}  // namespace awq::cuda
