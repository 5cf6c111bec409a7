// Attention over the paged cache on the tensor cores, operands straight from memory to registers: a warp owns 16 rows, each a
// query token and a head of the key head's group, and walks the pages of 16 keys (online softmax: FlashAttention, Dao et al.
// 2022; parts of a long cache side by side: flash-decoding, Dao et al. 2023).
#include <algorithm>

#include "kernels/cuda/fragments.cuh"
#include "kernels/cuda/launch.cuh"
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

// One page. first: position of its first key; a row sees keys from low[] to high[].
template <class T, int HeadDim>
__device__ __forceinline__ void take_page(const T* page, int first, const int low[2], const int high[2], float scale, int lane,
                                          const uint32_t q[HeadDim / 16][4], Accumulator<HeadDim>& acc) {
  // Column n of tile j stands for key 4 (n / 2) + 2 j + n % 2: then a lane's weights are those of four consecutive keys.
  const int n = lane / 4, c = lane % 4;
  const T* keys[2] = {page + (4 * (n / 2) + n % 2) * HeadDim + c * 8, page + (4 * (n / 2) + 2 + n % 2) * HeadDim + c * 8};
  float s[2][4] = {};
#pragma unroll
  for (int i = 0; i < HeadDim / 32; ++i)
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const uint4 k = *reinterpret_cast<const uint4*>(keys[j] + i * 32);
      mma_16x8x16<T>(s[j], q[2 * i], k.x, k.y);
      mma_16x8x16<T>(s[j], q[2 * i + 1], k.z, k.w);
    }
  uint2 v[HeadDim / 8];
  const T* values = page + kCachePage * HeadDim;
#pragma unroll
  for (int i = 0; i < HeadDim / 8; ++i) v[i] = *reinterpret_cast<const uint2*>(values + (i * 8 + n) * kCachePage + 4 * c);
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
  for (int i = 0; i < HeadDim / 8; ++i) mma_16x8x16<T>(acc.o[i], p, v[i].x, v[i].y);
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
    take_page<T, HeadDim>(at, i * kCachePage, low, high, scale, lane, q, acc);
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

// Block: span x key head x split; its warps take the split's pages in turn and meet in shared memory. Spans and pages are the
// host's: they need no predecessor.
template <class T, int HeadDim>
__global__ void __launch_bounds__(kWarps * 32) decode_kernel(AttentionArgs a) {
  allow_successor();
  extern __shared__ float shared[];  // [warps][group][HeadDim + 2]
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int group = a.heads / a.cache.kv_heads;
  const int split = blockIdx.x % a.splits, kv = blockIdx.x / a.splits % a.cache.kv_heads,
            index = blockIdx.x / (a.splits * a.cache.kv_heads);
  const DeviceSpan span = a.batch.spans[index];
  const KeyParts keys(a, span);
  const int to = keys.begin + min(keys.pages, (split + 1) * keys.each), from = keys.begin + split * keys.each + warp;
  int page = from < to ? a.batch.pages[span.pages + from] : 0;
  wait_for_predecessor();
  if (split >= keys.parts()) return;
  const T* q_rows[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = lane / 4 + 8 * h;
    q_rows[h] = row < group ? static_cast<const T*>(a.q) + span.first * a.ldq + (kv * group + row) * HeadDim : nullptr;
  }
  uint32_t q[HeadDim / 16][4];
  load_queries<T, HeadDim>(q_rows, lane, q);
  const int low[2] = {keys.first, keys.first}, high[2] = {span.past, span.past};
  Accumulator<HeadDim> acc;
  const float scale = a.scale * 1.44269504088896f;
  for (int i = from; i < to; i += kWarps) {
    const T* at = static_cast<const T*>(a.cache.base) + page * a.cache.page_elements() + kv * a.cache.head_elements();
    if (i + kWarps < to) page = a.batch.pages[span.pages + i + kWarps];
    take_page<T, HeadDim>(at, i * kCachePage, low, high, scale, lane, q, acc);
  }
  finish_sums(acc);
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = lane / 4 + 8 * h;
    if (row >= group) continue;
    float* line = shared + (warp * group + row) * (HeadDim + 2);
#pragma unroll
    for (int i = 0; i < HeadDim / 8; ++i) line[i * 8 + lane % 4 * 2] = acc.o[i][2 * h], line[i * 8 + lane % 4 * 2 + 1] = acc.o[i][2 * h + 1];
    if (lane % 4 == 0) line[HeadDim] = acc.top[h], line[HeadDim + 1] = acc.sum[h];
  }
  __syncthreads();
  for (int e = threadIdx.x; e < group * HeadDim; e += blockDim.x) {
    const int row = e / HeadDim, d = e % HeadDim;
    float top = -INFINITY;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) top = fmaxf(top, shared[(w * group + row) * (HeadDim + 2) + HeadDim]);
    const float base = top == -INFINITY ? 0 : top;
    float o = 0, sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const float* line = shared + (w * group + row) * (HeadDim + 2);
      const float weight = exp2f(line[HeadDim] - base);
      o += line[d] * weight, sum += line[HeadDim + 1] * weight;
    }
    const int64_t head = static_cast<int64_t>(span.first) * a.heads + kv * group + row;
    if (a.splits == 1) {
      static_cast<T*>(a.y)[head * HeadDim + d] = static_cast<T>(o / sum);
    } else {
      float* line = a.partials + (head * a.splits + split) * (HeadDim + 2);
      line[d] = o;
      if (d == 0) line[HeadDim] = top, line[HeadDim + 1] = sum;
    }
  }
}

static_assert(kAttentionSplits <= 32, "a lane per part");

// Block: token x head, a thread per element.
template <class T, int HeadDim>
__global__ void __launch_bounds__(HeadDim) combine_kernel(AttentionArgs a) {
  allow_successor();
  const int parts = KeyParts(a, a.batch.spans[a.batch.span_of[blockIdx.x / a.heads]]).parts(), lane = threadIdx.x % 32;
  const float* lines = a.partials + static_cast<int64_t>(blockIdx.x) * a.splits * (HeadDim + 2);
  wait_for_predecessor();
  const float* line = lines + lane * (HeadDim + 2);
  const float own = lane < parts ? line[HeadDim] : -INFINITY;
  float sum = lane < parts ? line[HeadDim + 1] : 0, top = own, o = 0;
  constexpr int kAtOnce = 8;
  float first[kAtOnce];
#pragma unroll
  for (int s = 0; s < kAtOnce; ++s) first[s] = s < parts ? lines[s * (HeadDim + 2) + threadIdx.x] : 0;
#pragma unroll
  for (int i = 16; i > 0; i /= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, i));
  const float weight = exp2f(own - top);
  sum *= weight;
#pragma unroll
  for (int i = 16; i > 0; i /= 2) sum += __shfl_xor_sync(~0u, sum, i);
#pragma unroll
  for (int s = 0; s < kAtOnce; ++s) o += first[s] * __shfl_sync(~0u, weight, s);
#pragma unroll 8
  for (int s = kAtOnce; s < parts; ++s) o += lines[s * (HeadDim + 2) + threadIdx.x] * __shfl_sync(~0u, weight, s);
  static_cast<T*>(a.y)[static_cast<int64_t>(blockIdx.x) * HeadDim + threadIdx.x] = static_cast<T>(o / sum);
}

bool overlap() {
  static const bool value = [] {
    int device = 0, major = 0;
    return cudaGetDevice(&device) == cudaSuccess &&
           cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess && major >= 9;
  }();
  return value;
}

template <class T, int HeadDim>
cudaError_t decode(const AttentionArgs& a, cudaStream_t stream) {
  const int group = a.heads / a.cache.kv_heads;
  const int shared = kWarps * group * (HeadDim + 2) * 4;
  const cudaError_t error = launch_kernel(decode_kernel<T, HeadDim>, overlap(),
                                          {a.batch.span_count * a.cache.kv_heads * a.splits, kWarps * 32, 1}, shared, stream, a);
  if (error != cudaSuccess || a.splits == 1) return error;
  return launch_kernel(combine_kernel<T, HeadDim>, overlap(), {a.batch.span_count * a.heads, HeadDim, 1}, 0, stream, a);
}

template <class T, int HeadDim>
cudaError_t prefill(const AttentionArgs& a, cudaStream_t stream) {
  return launch_kernel(prefill_kernel<T, HeadDim>, overlap(), {a.tile_count * a.cache.kv_heads, kWarps * 32, 1}, 0, stream, a);
}

template <class T>
cudaError_t by_head_dim(const AttentionArgs& a, bool decoding, cudaStream_t stream) {
  switch (a.cache.head_dim) {
    case 64: return decoding ? decode<T, 64>(a, stream) : prefill<T, 64>(a, stream);
    case 96: return decoding ? decode<T, 96>(a, stream) : prefill<T, 96>(a, stream);
    case 128: return decoding ? decode<T, 128>(a, stream) : prefill<T, 128>(a, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace

bool attention_takes(int head_dim, int heads, int kv_heads) {
  return (head_dim == 64 || head_dim == 96 || head_dim == 128) && heads % kv_heads == 0 && heads / kv_heads <= kRows;
}

cudaError_t launch_attention_decode(Act act, const AttentionArgs& args, cudaStream_t stream) {
  return act == Act::kF16 ? by_head_dim<__half>(args, true, stream) : by_head_dim<__nv_bfloat16>(args, true, stream);
}

cudaError_t launch_attention_prefill(Act act, const AttentionArgs& args, cudaStream_t stream) {
  return act == Act::kF16 ? by_head_dim<__half>(args, false, stream) : by_head_dim<__nv_bfloat16>(args, false, stream);
}

}  // namespace awq::cuda
