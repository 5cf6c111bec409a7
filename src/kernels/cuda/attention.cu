// Attention of prompts, and of decoding sequences in as many parts as keep the device busy (attention.cuh has what they share).
#include <algorithm>

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/rope.cuh"

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

// A decoding sequence's keys: the first seen, their pages, and how many of those a part takes. A part has a page for each warp
// before there is a second part: parts cost a reading and a joining.
struct KeyParts {
  int first, begin, pages, each;
  __device__ __forceinline__ KeyParts(const AttentionArgs& a, const DeviceSpan& span)
      : first(a.window > 0 ? max(0, span.past - a.window + 1) : 0),
        begin(first / kCachePage),
        pages(span.past / kCachePage + 1 - begin),
        each(a.splits == 1 ? pages : max((pages + a.splits - 1) / a.splits, kWarps)) {}
  __device__ __forceinline__ int parts() const { return (pages + each - 1) / each; }
};

// Shared memory of a decoding block: what its warps have to join (before, a line for each to prepare heads in), then the queries.
template <class T, int HeadDim>
struct DecodeShared {
  static constexpr int kLine = HeadDim + 2;
  static __host__ __device__ int bytes(int group) { return kWarps * group * kLine * 4 + group * HeadDim * static_cast<int>(sizeof(T)); }
};

// Joins the parts of a key head's queries, in order: one block.
template <class T, int HeadDim>
__device__ __forceinline__ void join_parts(const AttentionArgs& a, int64_t head0, int group, int parts, float (*weights)[kAttentionSplits],
                                           float* sums) {
  constexpr int kLine = DecodeShared<T, HeadDim>::kLine, kPairs = HeadDim / 2, kAtOnce = 8;
  const int lane = threadIdx.x % 32;
  const float* lines = a.partials + head0 * a.splits * kLine;
  for (int row = threadIdx.x / 32; row < group; row += kWarps) {
    const float* line = lines + (row * a.splits + lane) * kLine + HeadDim;
    const float2 own = lane < parts ? __ldcg(reinterpret_cast<const float2*>(line)) : make_float2(-INFINITY, 0);
    float top = own.x;
#pragma unroll
    for (int i = 16; i > 0; i /= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, i));
    const float weight = exp2f(own.x - top);
    float sum = own.y * weight;
#pragma unroll
    for (int i = 16; i > 0; i /= 2) sum += __shfl_xor_sync(~0u, sum, i);
    weights[row][lane] = weight;
    if (lane == 0) sums[row] = sum;
  }
  __syncthreads();
  for (int e = threadIdx.x; e < group * kPairs; e += kWarps * 32) {
    const int row = e / kPairs, d = e % kPairs * 2;
    const float* line = lines + row * a.splits * kLine + d;
    float2 o = {0, 0};
    for (int first = 0; first < parts; first += kAtOnce) {
      float2 v[kAtOnce];
#pragma unroll
      for (int s = 0; s < kAtOnce; ++s)
        v[s] = first + s < parts ? __ldcg(reinterpret_cast<const float2*>(line + (first + s) * kLine)) : make_float2(0, 0);
#pragma unroll
      for (int s = 0; s < kAtOnce; ++s) {
        const float weight = first + s < parts ? weights[row][first + s] : 0;
        o.x += v[s].x * weight, o.y += v[s].y * weight;
      }
    }
    *reinterpret_cast<uint32_t*>(static_cast<T*>(a.y) + (head0 + row) * HeadDim + d) = pack_pair<T>(o.x / sums[row], o.y / sums[row]);
  }
}

// Block: span x key head x split. It prepares the group's queries, and the one with the last page the new key and value, which it
// puts into the cache; its warps take the split's pages in turn and meet in shared memory; of the blocks of a key head the one that
// ends last joins their parts. Spans, positions and pages are the host's: they need no predecessor.
template <class T, class Stored, int HeadDim>
__global__ void __launch_bounds__(kWarps * 32) decode_kernel(const __grid_constant__ AttentionArgs a, const __grid_constant__ RopeArgs rope) {
  allow_successor();
  constexpr int kLine = DecodeShared<T, HeadDim>::kLine;
  extern __shared__ float shared[];
  __shared__ float weights[kRows][kAttentionSplits], sums[kRows];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int group = a.heads / a.cache.kv_heads;
  T* queries = reinterpret_cast<T*>(shared + kWarps * group * kLine);
  const int split = blockIdx.x % a.splits, kv = blockIdx.x / a.splits % a.cache.kv_heads,
            index = blockIdx.x / (a.splits * a.cache.kv_heads);
  const DeviceSpan span = a.batch.spans[index];
  const KeyParts keys(a, span);
  const int parts = keys.parts();
  if (split >= parts) return;  // others wait for the predecessor, and with them the successor
  const int to = keys.begin + min(keys.pages, (split + 1) * keys.each), from = keys.begin + split * keys.each + warp;
  const auto load = [&](int i, Page<T, Stored, HeadDim>& page) { load_page<false>(a, span, i, kv, lane, page); };
  // The keys of earlier steps need no predecessor either; only the last page gets a new one in this step.
  const int last = keys.begin + keys.pages - 1;
  Page<T, Stored, HeadDim> content;
  if (from < to && from != last) load(from, content);
  const bool newest = split == parts - 1;
  const int position = a.batch.positions[span.first], own_page = newest ? a.batch.pages[span.pages + position / kCachePage] : 0;
  Rotation<HeadDim / 32> rotation;
  rotation.set(rope, position, lane);
  wait_for_predecessor();
  for (int h = warp; h < group + (newest ? 2 : 0); h += kWarps) {
    const int head = h < group ? kv * group + h : a.heads + kv + (h - group) * a.cache.kv_heads;
    float* line = shared + warp * group * kLine;
    prepare_head<T>(rope, static_cast<const T*>(rope.qkv) + span.first * a.ldq + head * HeadDim, head, rotation, line, lane);
    if (h < group)
      for (int i = lane; i < HeadDim; i += 32) queries[h * HeadDim + i] = static_cast<T>(line[i]);
    else
      store_in_cache<T>(a.cache, own_page, position, kv, h > group, line, lane);
    __syncwarp();
  }
  __syncthreads();
  const T* q_rows[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) q_rows[h] = lane / 4 + 8 * h < group ? queries + (lane / 4 + 8 * h) * HeadDim : nullptr;
  uint32_t q[HeadDim / 16][4];
  load_queries<T, HeadDim>(q_rows, lane, q);
  const int low[2] = {keys.first, keys.first}, high[2] = {span.past, span.past};
  Accumulator<HeadDim> acc;
  const float scale = a.scale * kLog2E;
  if (from < to && from == last) load(from, content);
  for (int i = from; i < to; i += kWarps) {
    Page<T, Stored, HeadDim> next;
    if (i + kWarps < to) load(i + kWarps, next);
    take_page(content, i * kCachePage, low, high, scale, lane, q, acc);
    content = next;
  }
  finish_sums(acc);
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = lane / 4 + 8 * h;
    if (row >= group) continue;
    float* line = shared + (warp * group + row) * kLine;
#pragma unroll
    for (int i = 0; i < HeadDim / 8; ++i) line[i * 8 + lane % 4 * 2] = acc.o[i][2 * h], line[i * 8 + lane % 4 * 2 + 1] = acc.o[i][2 * h + 1];
    if (lane % 4 == 0) line[HeadDim] = acc.top[h], line[HeadDim + 1] = acc.sum[h];
  }
  __syncthreads();
  const int64_t head0 = static_cast<int64_t>(span.first) * a.heads + kv * group;
  for (int e = threadIdx.x; e < group * HeadDim; e += blockDim.x) {
    const int row = e / HeadDim, d = e % HeadDim;
    float top = -INFINITY;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) top = fmaxf(top, shared[(w * group + row) * kLine + HeadDim]);
    const float base = top == -INFINITY ? 0 : top;
    float o = 0, sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const float* line = shared + (w * group + row) * kLine;
      const float weight = exp2f(line[HeadDim] - base);
      o += line[d] * weight, sum += line[HeadDim + 1] * weight;
    }
    if (parts == 1) {
      static_cast<T*>(a.y)[(head0 + row) * HeadDim + d] = static_cast<T>(o / sum);
    } else {
      float* line = a.partials + ((head0 + row) * a.splits + split) * kLine;
      line[d] = o;
      if (d == 0) line[HeadDim] = top, line[HeadDim + 1] = sum;
    }
  }
  if (parts == 1) return;
  if (!last_to_arrive(a.arrivals + index * a.cache.kv_heads + kv, parts)) return;
  join_parts<T, HeadDim>(a, head0, group, parts, weights, sums);
}

static_assert(kAttentionSplits <= 32, "a lane per part");

template <class T, class Stored, int HeadDim>
cudaError_t decode(const AttentionArgs& a, const RopeArgs& rope, cudaStream_t stream) {
  const LaunchShape shape{a.batch.span_count * a.cache.kv_heads * a.splits, kWarps * 32, 1};
  return launch_kernel(decode_kernel<T, Stored, HeadDim>, starts_early(), shape,
                       DecodeShared<T, HeadDim>::bytes(a.heads / a.cache.kv_heads), stream, a, rope);
}

template <class T, class Stored, int HeadDim>
cudaError_t prefill(const AttentionArgs& a, cudaStream_t stream) {
  return launch_kernel(prefill_kernel<T, Stored, HeadDim>, starts_early(), {a.tile_count * a.cache.kv_heads, kWarps * 32, 1}, 0, stream, a);
}

}  // namespace

bool attention_takes(int head_dim, int heads, int kv_heads) {
  return (head_dim == 64 || head_dim == 96 || head_dim == 128) && heads % kv_heads == 0 && heads / kv_heads <= kRows;
}

cudaError_t launch_attention_decode(Act act, const AttentionArgs& args, const RopeArgs& rope, cudaStream_t stream) {
  return by_cache(act, args.cache, [&]<class T, class Stored, int HeadDim>() { return decode<T, Stored, HeadDim>(args, rope, stream); });
}

cudaError_t launch_attention_prefill(Act act, const AttentionArgs& args, cudaStream_t stream) {
  return by_cache(act, args.cache, [&]<class T, class Stored, int HeadDim>() { return prefill<T, Stored, HeadDim>(args, stream); });
}

}  // namespace awq::cuda
