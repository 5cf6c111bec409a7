// Attention over the paged cache on the tensor cores, operands straight from memory to registers: a warp owns 16 rows, each a
// query token and a head of the key head's group, and walks the pages of 16 keys (online softmax: FlashAttention, Dao et al.
// 2022; parts of a long cache side by side: flash-decoding, Dao et al. 2023).
#include <algorithm>

#include "kernels/cuda/fragments.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/rope.cuh"
#include "kernels/cuda/step.h"

namespace awq::cuda {
namespace {

constexpr int kWarps = 4, kRows = 16;

// 16 rows: sums, and per row r = lane / 4 (index 0) and r + 8 (index 1) the maximum and the sum of weights.
template <int HeadDim>
struct Accumulator {
  float o[HeadDim / 8][4] = {};
  float top[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
};

// The rows' queries as operand A; the order of the head's elements within a step of 32 is that of the keys below: lane c of a
// quad holds elements 8c .. 8c + 7, so that keys are read 16 bytes at a time.
template <class T, int HeadDim>
__device__ __forceinline__ void load_queries(const T* rows[2], int lane, uint32_t q[HeadDim / 16][4]) {
#pragma unroll
  for (int s = 0; s < HeadDim / 32; ++s) {
    uint4 v[2];
#pragma unroll
    for (int h = 0; h < 2; ++h)
      v[h] = rows[h] ? *reinterpret_cast<const uint4*>(rows[h] + s * 32 + lane % 4 * 8) : make_uint4(0, 0, 0, 0);
    q[2 * s][0] = v[0].x, q[2 * s][1] = v[1].x, q[2 * s][2] = v[0].y, q[2 * s][3] = v[1].y;
    q[2 * s + 1][0] = v[0].z, q[2 * s + 1][1] = v[1].z, q[2 * s + 1][2] = v[0].w, q[2 * s + 1][3] = v[1].w;
  }
}

// A page of a key head as operands: lane n = lane / 4 and c = lane % 4 hold keys' elements 8c .. 8c + 7 of each 32, and of the values
// element 8i + n of keys 4c .. 4c + 3. Column n of tile j stands for key 4 (n / 2) + 2 j + n % 2: then a lane's weights are those of
// four consecutive keys.
template <class T, int HeadDim>
struct Page {
  uint4 keys[HeadDim / 32][2];
  uint2 values[HeadDim / 8];

  // Past the L1 cache where no other warp of the block reads the same.
  template <bool Cached>
  __device__ __forceinline__ void load(const T* page, int lane) {
    const auto get = [](const auto* p) { return Cached ? *p : __ldcg(p); };
    const int n = lane / 4, c = lane % 4;
#pragma unroll
    for (int i = 0; i < HeadDim / 32; ++i)
#pragma unroll
      for (int j = 0; j < 2; ++j)
        keys[i][j] = get(reinterpret_cast<const uint4*>(page + (4 * (n / 2) + 2 * j + n % 2) * HeadDim + c * 8 + i * 32));
#pragma unroll
    for (int i = 0; i < HeadDim / 8; ++i)
      values[i] = get(reinterpret_cast<const uint2*>(page + kCachePage * HeadDim + (i * 8 + n) * kCachePage + 4 * c));
  }
};

// first: position of the page's first key; a row sees keys from low[] to high[].
template <class T, int HeadDim>
__device__ __forceinline__ void take_page(const Page<T, HeadDim>& page, int first, const int low[2], const int high[2], float scale,
                                          int lane, const uint32_t q[HeadDim / 16][4], Accumulator<HeadDim>& acc) {
  const int c = lane % 4;
  float s[2][4] = {};
#pragma unroll
  for (int i = 0; i < HeadDim / 32; ++i)
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const uint4& k = page.keys[i][j];
      mma_16x8x16<T>(s[j], q[2 * i], k.x, k.y);
      mma_16x8x16<T>(s[j], q[2 * i + 1], k.z, k.w);
    }
  uint32_t p[4];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float w[4], top = acc.top[h];
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int key = first + 4 * c + e;
      w[e] = key >= low[h] && key <= high[h] ? s[e / 2][2 * h + e % 2] * scale : -INFINITY;
      top = fmaxf(top, w[e]);
    }
    top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
    top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
    const float base = top == -INFINITY ? 0 : top, shrink = exp2f(acc.top[h] - base);
    acc.top[h] = top;
    float sum = 0;
#pragma unroll
    for (int e = 0; e < 4; ++e) sum += w[e] = exp2f(w[e] - base);
    acc.sum[h] = acc.sum[h] * shrink + sum;
    p[h] = pack_pair<T>(w[0], w[1]);
    p[2 + h] = pack_pair<T>(w[2], w[3]);
#pragma unroll
    for (int i = 0; i < HeadDim / 8; ++i) acc.o[i][2 * h] *= shrink, acc.o[i][2 * h + 1] *= shrink;
  }
#pragma unroll
  for (int i = 0; i < HeadDim / 8; ++i) mma_16x8x16<T>(acc.o[i], p, page.values[i].x, page.values[i].y);
}

template <int HeadDim>
__device__ __forceinline__ void finish_sums(Accumulator<HeadDim>& acc) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    acc.sum[h] += __shfl_xor_sync(~0u, acc.sum[h], 1);
    acc.sum[h] += __shfl_xor_sync(~0u, acc.sum[h], 2);
  }
}

// Block: tile of 64 rows x key head.
template <class T, int HeadDim>
__global__ void __launch_bounds__(kWarps * 32) prefill_kernel(AttentionArgs a) {
  allow_successor();
  wait_for_predecessor();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int group = a.heads / a.cache.kv_heads, kv = blockIdx.x % a.cache.kv_heads;
  // Tiles with the most keys first: they end last.
  const int2 tile = a.tiles[a.tile_count - 1 - static_cast<int>(blockIdx.x) / a.cache.kv_heads];
  const DeviceSpan span = a.batch.spans[tile.x];
  const int row0 = (tile.y * kWarps + warp) * kRows, rows = span.tokens * group;
  if (row0 >= rows) return;
  const T* q_rows[2];
  T* y_rows[2];
  int low[2], high[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = row0 + lane / 4 + 8 * h, token = row / group, head = kv * group + row % group;
    const bool real = row < rows;
    q_rows[h] = real ? static_cast<const T*>(a.q) + (span.first + token) * a.ldq + head * HeadDim : nullptr;
    y_rows[h] =
        real ? static_cast<T*>(a.y) + (static_cast<int64_t>(span.first + token) * a.heads + head) * HeadDim : nullptr;
    high[h] = real ? span.past + token : -1;
    low[h] = a.window > 0 ? max(0, high[h] - a.window + 1) : 0;
  }
  uint32_t q[HeadDim / 16][4];
  load_queries<T, HeadDim>(q_rows, lane, q);
  Accumulator<HeadDim> acc;
  const int first_token = span.past + row0 / group, last_token = span.past + (min(row0 + kRows, rows) - 1) / group;
  const int begin = a.window > 0 ? max(0, first_token - a.window + 1) / kCachePage : 0, end = last_token / kCachePage;
  const float scale = a.scale * 1.44269504088896f;
  for (int i = begin; i <= end; ++i) {
    const int page = a.batch.pages[span.pages + i];
    const T* at = static_cast<const T*>(a.cache.base) + page * a.cache.page_elements() + kv * a.cache.head_elements();
    Page<T, HeadDim> content;
    content.template load<true>(at, lane);
    take_page<T, HeadDim>(content, i * kCachePage, low, high, scale, lane, q, acc);
  }
  finish_sums(acc);
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    if (!y_rows[h]) continue;
    const float inverse = acc.sum[h] > 0 ? 1 / acc.sum[h] : 0;
#pragma unroll
    for (int i = 0; i < HeadDim / 8; ++i)
      *reinterpret_cast<uint32_t*>(y_rows[h] + i * 8 + lane % 4 * 2) =
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
template <class T, int HeadDim>
__global__ void __launch_bounds__(kWarps * 32) decode_kernel(const __grid_constant__ AttentionArgs a, const __grid_constant__ RopeArgs rope) {
  allow_successor();
  constexpr int kLine = DecodeShared<T, HeadDim>::kLine;
  extern __shared__ float shared[];
  __shared__ float weights[kRows][kAttentionSplits], sums[kRows];
  __shared__ uint32_t arrived;
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
  const auto load = [&](int i, Page<T, HeadDim>& content) {
    const int page = a.batch.pages[span.pages + i];
    content.template load<false>(
        static_cast<const T*>(a.cache.base) + page * a.cache.page_elements() + kv * a.cache.head_elements(), lane);
  };
  // The keys of earlier steps need no predecessor either; only the last page gets a new one in this step.
  const int last = keys.begin + keys.pages - 1;
  Page<T, HeadDim> content;
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
  const float scale = a.scale * 1.44269504088896f;
  if (from < to && from == last) load(from, content);
  for (int i = from; i < to; i += kWarps) {
    Page<T, HeadDim> next;
    if (i + kWarps < to) load(i + kWarps, next);
    take_page<T, HeadDim>(content, i * kCachePage, low, high, scale, lane, q, acc);
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
  __threadfence();
  __syncthreads();
  uint32_t* arrivals = a.arrivals + index * a.cache.kv_heads + kv;
  if (threadIdx.x == 0) arrived = atomicAdd(arrivals, 1);
  __syncthreads();
  if (arrived + 1 != static_cast<uint32_t>(parts)) return;
  if (threadIdx.x == 0) *arrivals = 0;
  __threadfence();
  join_parts<T, HeadDim>(a, head0, group, parts, weights, sums);
}

static_assert(kAttentionSplits <= 32, "a lane per part");

bool overlap() {
  static const bool value = [] {
    int device = 0, major = 0;
    return cudaGetDevice(&device) == cudaSuccess &&
           cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess && major >= 9;
  }();
  return value;
}

template <class T, int HeadDim>
cudaError_t decode(const AttentionArgs& a, const RopeArgs& rope, cudaStream_t stream) {
  const LaunchShape shape{a.batch.span_count * a.cache.kv_heads * a.splits, kWarps * 32, 1};
  return launch_kernel(decode_kernel<T, HeadDim>, overlap(), shape, DecodeShared<T, HeadDim>::bytes(a.heads / a.cache.kv_heads), stream,
                       a, rope);
}

template <class T, int HeadDim>
cudaError_t prefill(const AttentionArgs& a, cudaStream_t stream) {
  return launch_kernel(prefill_kernel<T, HeadDim>, overlap(), {a.tile_count * a.cache.kv_heads, kWarps * 32, 1}, 0, stream, a);
}

// Calls use<head_dim>().
template <class Use>
cudaError_t by_head_dim(int head_dim, const Use& use) {
  switch (head_dim) {
    case 64: return use.template operator()<64>();
    case 96: return use.template operator()<96>();
    case 128: return use.template operator()<128>();
  }
  return cudaErrorInvalidValue;
}

}  // namespace

bool attention_takes(int head_dim, int heads, int kv_heads) {
  return (head_dim == 64 || head_dim == 96 || head_dim == 128) && heads % kv_heads == 0 && heads / kv_heads <= kRows;
}

cudaError_t launch_attention_decode(Act act, const AttentionArgs& args, const RopeArgs& rope, cudaStream_t stream) {
  return by_head_dim(args.cache.head_dim, [&]<int HeadDim>() {
    return act == Act::kF16 ? decode<__half, HeadDim>(args, rope, stream) : decode<__nv_bfloat16, HeadDim>(args, rope, stream);
  });
}

cudaError_t launch_attention_prefill(Act act, const AttentionArgs& args, cudaStream_t stream) {
  return by_head_dim(args.cache.head_dim, [&]<int HeadDim>() {
    return act == Act::kF16 ? prefill<__half, HeadDim>(args, stream) : prefill<__nv_bfloat16, HeadDim>(args, stream);
  });
}

}  // namespace awq::cuda
