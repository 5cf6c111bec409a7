// Attention in the invariant mode: a token's keys are summed in parts of kPartKeys at fixed positions (key_parts.h), page by page, and
// the parts are joined in order. A prompt's warp does both itself; a decoding sequence's parts are dealt to warps of several blocks,
// of which the last to end joins them. Both take the same steps for a row, so that its bits do not depend on which one it met.
#include <algorithm>

#include "kernels/cuda/attention.cuh"

namespace awq::cuda {
namespace {

// Joins a part to what stands for the parts before it; all see other keys of the same row.
struct Join {
  float top, before, part;  // the new maximum; weights of both sides' sums
  __device__ __forceinline__ Join(float top_before, float top_part) {
    top = fmaxf(top_before, top_part);
    const float base = top == -INFINITY ? 0 : top;
    before = exp2f(__fsub_rn(top_before, base)), part = exp2f(__fsub_rn(top_part, base));
  }
  __device__ __forceinline__ float operator()(float sum_before, float sum_part) const {
    return __fmaf_rn(sum_part, part, __fmul_rn(sum_before, before));
  }
};

template <class T>
__device__ __forceinline__ uint32_t finished_pair(float x, float y, float sum) {
  return pack_pair<T>(__fdiv_rn(x, sum), __fdiv_rn(y, sum));
}

// Block: tile of 64 rows x key head.
template <class T, class Stored, int HeadDim>
__global__ void __launch_bounds__(kWarps * 32) prefill_kernel(AttentionArgs a) {
  // What is joined so far, a lane's own: beside a part's sums there are no registers for it.
  __shared__ float lines[kWarps][HeadDim / 2][32];
  allow_successor();
  wait_for_predecessor();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const PromptRows<T, HeadDim> rows(a, warp, lane);
  if (rows.end < rows.begin) return;
  uint32_t q[HeadDim / 16][4];
  load_queries<T, HeadDim>(rows.q, lane, q);
  float top[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
  const auto joined = [&](int i, int e) -> float& { return lines[warp][4 * i + e][lane]; };
#pragma unroll
  for (int i = 0; i < HeadDim / 8; ++i)
#pragma unroll
    for (int e = 0; e < 4; ++e) joined(i, e) = 0;
  const float scale = a.scale * kLog2E;
  for (int part = rows.begin / kPartPages; part <= rows.end / kPartPages; ++part) {
    Accumulator<HeadDim> acc;
    const int from = max(rows.begin, part * kPartPages), last = min(rows.end, part * kPartPages + kPartPages - 1);
    for (int i = from; i <= last; ++i) {
      Page<T, Stored, HeadDim> content;
      load_page<true>(a, rows.span, i, rows.kv, lane, content);
      take_page(content, i * kCachePage, rows.low, rows.high, scale, lane, q, acc);
    }
    finish_sums(acc);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      if (acc.top[h] == -INFINITY) continue;  // this row sees nothing of it: decoding does not have the part at all
      const Join join(top[h], acc.top[h]);
      top[h] = join.top, sum[h] = join(sum[h], acc.sum[h]);
#pragma unroll
      for (int i = 0; i < HeadDim / 8; ++i)
#pragma unroll
        for (int e = 2 * h; e < 2 * h + 2; ++e) joined(i, e) = join(joined(i, e), acc.o[i][e]);
    }
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    if (!rows.y[h]) continue;
#pragma unroll
    for (int i = 0; i < HeadDim / 8; ++i)
      *reinterpret_cast<uint32_t*>(rows.y[h] + i * 8 + lane % 4 * 2) = finished_pair<T>(joined(i, 2 * h), joined(i, 2 * h + 1), sum[h]);
  }
}

// A line of a part and head: sums [head_dim], maximum, sum of weights. Lines of a key head's group stand together; parts are
// `step` apart.
template <int HeadDim>
struct PartLines {
  static constexpr int kLine = HeadDim + 2;
  float* base;
  int64_t step;
  __device__ __forceinline__ PartLines(const AttentionArgs& a, const DeviceSpan& span, int index, int kv, int group)
      : base(a.partials + (static_cast<int64_t>(first_part_slot(span.pages, index)) * a.heads + kv * group) * kLine),
        step(static_cast<int64_t>(a.heads) * kLine) {}
  __device__ __forceinline__ float* at(int part, int row) const { return base + part * step + row * kLine; }
};

// Pages [from, last] of a part into a fresh accumulator; the next page is on its way while one is summed.
template <class T, class Stored, int HeadDim>
__device__ __forceinline__ void sum_part(const AttentionArgs& a, const DeviceSpan& span, int kv, int from, int last, int first_key, int lane,
                                         const uint32_t q[HeadDim / 16][4], Accumulator<HeadDim>& acc) {
  const int low[2] = {first_key, first_key}, high[2] = {span.past, span.past};
  const float scale = a.scale * kLog2E;
  Page<T, Stored, HeadDim> content;
  load_page<false>(a, span, from, kv, lane, content);
  for (int i = from; i <= last; ++i) {
    Page<T, Stored, HeadDim> next;
    if (i < last) load_page<false>(a, span, i + 1, kv, lane, next);
    take_page(content, i * kCachePage, low, high, scale, lane, q, acc);
    content = next;
  }
  finish_sums(acc);
}

// Joins the parts [begin, end) of a group's rows: one block.
template <class T, int HeadDim>
__device__ __forceinline__ void join_parts(const PartLines<HeadDim>& lines, int begin, int end, int group, T* y) {
  constexpr int kPairs = HeadDim / 2, kAtOnce = 8;
  for (int e = threadIdx.x; e < group * kPairs; e += kWarps * 32) {
    const int row = e / kPairs, d = e % kPairs * 2;
    float top = -INFINITY, sum = 0;
    float2 o = {0, 0};
    for (int first = begin; first < end; first += kAtOnce) {
      float2 values[kAtOnce], ends[kAtOnce];
#pragma unroll
      for (int s = 0; s < kAtOnce; ++s) {
        const float* line = lines.at(min(first + s, end - 1), row);
        values[s] = __ldcg(reinterpret_cast<const float2*>(line + d)), ends[s] = __ldcg(reinterpret_cast<const float2*>(line + HeadDim));
      }
#pragma unroll
      for (int s = 0; s < kAtOnce; ++s) {
        if (first + s >= end) break;
        const Join join(top, ends[s].x);
        top = join.top, sum = join(sum, ends[s].y);
        o.x = join(o.x, values[s].x), o.y = join(o.y, values[s].y);
      }
    }
    *reinterpret_cast<uint32_t*>(y + row * HeadDim + d) = finished_pair<T>(o.x, o.y, sum);
  }
}

// Block: span x key head x split; splits take parts in turn, first one warp of each, then the next. Queries and the new key and value
// were prepared by launch_rope_cache.
template <class T, class Stored, int HeadDim>
__global__ void __launch_bounds__(kWarps * 32) decode_kernel(const __grid_constant__ AttentionArgs a) {
  allow_successor();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int group = a.heads / a.cache.kv_heads;
  const int split = blockIdx.x % a.splits, kv = blockIdx.x / a.splits % a.cache.kv_heads, index = blockIdx.x / (a.splits * a.cache.kv_heads);
  const DeviceSpan span = a.batch.spans[index];
  const KeyRange keys(span.past, a.window);
  const int blocks = min(a.splits, keys.end - keys.begin);
  if (split >= blocks) return;  // others wait for the predecessor, and with them the successor
  wait_for_predecessor();
  const T* q_rows[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = lane / 4 + 8 * h;
    q_rows[h] = row < group ? static_cast<const T*>(a.q) + span.first * a.ldq + (kv * group + row) * HeadDim : nullptr;
  }
  uint32_t q[HeadDim / 16][4];
  load_queries<T, HeadDim>(q_rows, lane, q);
  const PartLines<HeadDim> lines(a, span, index, kv, group);
  for (int part = keys.begin + warp * a.splits + split; part < keys.end; part += kWarps * a.splits) {
    Accumulator<HeadDim> acc;
    sum_part<T, Stored, HeadDim>(a, span, kv, max(keys.first / kCachePage, part * kPartPages),
                                 min(span.past / kCachePage, part * kPartPages + kPartPages - 1), keys.first, lane, q, acc);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = lane / 4 + 8 * h;
      if (row >= group) continue;
      float* line = lines.at(part, row);
#pragma unroll
      for (int i = 0; i < HeadDim / 8; ++i)
        *reinterpret_cast<float2*>(line + i * 8 + lane % 4 * 2) = make_float2(acc.o[i][2 * h], acc.o[i][2 * h + 1]);
      if (lane % 4 == 0) *reinterpret_cast<float2*>(line + HeadDim) = make_float2(acc.top[h], acc.sum[h]);
    }
  }
  if (!last_to_arrive(a.arrivals + index * a.cache.kv_heads + kv, blocks)) return;
  join_parts<T, HeadDim>(lines, keys.begin, keys.end, group, static_cast<T*>(a.y) + (static_cast<int64_t>(span.first) * a.heads + kv * group) * HeadDim);
}

template <class T, class Stored, int HeadDim>
cudaError_t decode(const AttentionArgs& a, cudaStream_t stream) {
  const LaunchShape shape{a.batch.span_count * a.cache.kv_heads * a.splits, kWarps * 32, 1};
  return launch_kernel(decode_kernel<T, Stored, HeadDim>, starts_early(), shape, 0, stream, a);
}

template <class T, class Stored, int HeadDim>
cudaError_t prefill(const AttentionArgs& a, cudaStream_t stream) {
  return launch_kernel(prefill_kernel<T, Stored, HeadDim>, starts_early(), {a.tile_count * a.cache.kv_heads, kWarps * 32, 1}, 0, stream, a);
}

}  // namespace

cudaError_t launch_fixed_attention_decode(Act act, const AttentionArgs& args, cudaStream_t stream) {
  return by_cache(act, args.cache, [&]<class T, class Stored, int HeadDim>() { return decode<T, Stored, HeadDim>(args, stream); });
}

cudaError_t launch_fixed_attention_prefill(Act act, const AttentionArgs& args, cudaStream_t stream) {
  return by_cache(act, args.cache, [&]<class T, class Stored, int HeadDim>() { return prefill<T, Stored, HeadDim>(args, stream); });
}

}  // namespace awq::cuda
