// Attention of prompts (attention.cuh has what it shares with decoding).
#include "kernels/cuda/attention.cuh"

namespace awq::cuda {
namespace {

// Block: tile of 64 rows x key head.
template <class T, class Stored, int HeadDim>
__global__ void __launch_bounds__(kWarps * 32) prefill_kernel(AttentionArgs a) {
  allow_successor();
  wait_for_predecessor();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const PromptRows<T, HeadDim> rows(a, warp, lane);
  if (rows.end < rows.begin) return;
  uint32_t q[HeadDim / 16][4];
  load_queries<T, HeadDim>(rows.q, lane, q);
  Accumulator<HeadDim> acc;
  const float scale = a.scale * kLog2E;
  for (int i = rows.begin; i <= rows.end; ++i) {
    Page<T, Stored, HeadDim> content;
    load_page<true>(a, rows.span, i, rows.kv, lane, content);
    take_page(content, i * kCachePage, rows.low, rows.high, scale, lane, q, acc);
  }
  finish_sums(acc);
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    if (!rows.y[h]) continue;
    const float inverse = acc.sum[h] > 0 ? 1 / acc.sum[h] : 0;
#pragma unroll
    for (int i = 0; i < HeadDim / 8; ++i)
      *reinterpret_cast<uint32_t*>(rows.y[h] + i * 8 + lane % 4 * 2) =
          pack_pair<T>(acc.o[i][2 * h] * inverse, acc.o[i][2 * h + 1] * inverse);
  }
}

template <class T, class Stored, int HeadDim>
cudaError_t prefill(const AttentionArgs& a, cudaStream_t stream) {
  return launch_kernel(prefill_kernel<T, Stored, HeadDim>, starts_early(), {a.tile_count * a.cache.kv_heads, kWarps * 32, 1}, 0, stream, a);
}

}  // namespace

bool attention_takes(int head_dim, int heads, int kv_heads) {
  return (head_dim == 64 || head_dim == 96 || head_dim == 128) && heads % kv_heads == 0 && heads / kv_heads <= kRows;
}

cudaError_t launch_attention_prefill(Act act, const AttentionArgs& args, cudaStream_t stream) {
  return by_cache(act, args.cache, [&]<class T, class Stored, int HeadDim>() { return prefill<T, Stored, HeadDim>(args, stream); });
}

}  // namespace awq::cuda
