// Attention over the paged cache on the tensor cores, operands straight from memory to registers: a warp owns 16 rows, each a
// query token and a head of the key head's group, and walks the pages of 16 keys (online softmax: FlashAttention, Dao et al.
// 2022; parts of a long cache side by side: flash-decoding, Dao et al. 2023). What the kernels of attention*.cu share.
#pragma once
#include "kernels/cuda/fragments.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/step.h"

namespace awq::cuda {

constexpr int kWarps = 4, kRows = 16;
constexpr float kLog2E = 1.44269504088896f;  // weights are powers of 2

// 16 rows: sums, and per row r = lane / 4 (index 0) and r + 8 (index 1) the maximum and the sum of weights.
template <int HeadDim>
struct Accumulator {
  float o[HeadDim / 8][4] = {};
  float top[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
};

// The rows' queries as operand A; the order of the head's elements within a step of 32 is that of the keys below: lane c of a
// quad holds elements 8c .. 8c + 7, so that keys are read 16 bytes at a time.
template <class T, int HeadDim>
__device__ __forceinline__ void load_queries(const T* const rows[2], int lane, uint32_t q[HeadDim / 16][4]) {
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

// first: position of the page's first key; a row sees keys from low[] to high[]. Operations that a compiler might fuse in one kernel
// and not in another are named, so that all kernels that walk pages do the same.
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
      w[e] = key >= low[h] && key <= high[h] ? __fmul_rn(s[e / 2][2 * h + e % 2], scale) : -INFINITY;
      top = fmaxf(top, w[e]);
    }
    top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
    top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
    const float base = top == -INFINITY ? 0 : top, shrink = exp2f(__fsub_rn(acc.top[h], base));
    acc.top[h] = top;
    float sum = 0;
#pragma unroll
    for (int e = 0; e < 4; ++e) w[e] = exp2f(__fsub_rn(w[e], base)), sum = __fadd_rn(sum, w[e]);
    acc.sum[h] = __fmaf_rn(acc.sum[h], shrink, sum);
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

// Page i of a span, of key head kv.
template <class T>
__device__ __forceinline__ const T* page_at(const AttentionArgs& a, const DeviceSpan& span, int i, int kv) {
  return static_cast<const T*>(a.cache.base) + a.batch.pages[span.pages + i] * a.cache.page_elements() + kv * a.cache.head_elements();
}

// What a warp of a prompt's block (tile of 64 rows x key head) has: its 16 rows' queries, results (null beyond the last) and keys.
template <class T, int HeadDim>
struct PromptRows {
  DeviceSpan span;
  int kv;
  const T* q[2] = {};
  T* y[2] = {};
  int low[2], high[2];
  int begin = 0, end = -1;  // pages that any row sees, the last one included

  __device__ __forceinline__ PromptRows(const AttentionArgs& a, int warp, int lane) {
    const int group = a.heads / a.cache.kv_heads;
    kv = blockIdx.x % a.cache.kv_heads;
    // Tiles with the most keys first: they end last.
    const int2 tile = a.tiles[a.tile_count - 1 - static_cast<int>(blockIdx.x) / a.cache.kv_heads];
    span = a.batch.spans[tile.x];
    const int row0 = (tile.y * kWarps + warp) * kRows, rows = span.tokens * group;
    if (row0 >= rows) return;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = row0 + lane / 4 + 8 * h, token = row / group, head = kv * group + row % group;
      const bool real = row < rows;
      q[h] = real ? static_cast<const T*>(a.q) + (span.first + token) * a.ldq + head * HeadDim : nullptr;
      y[h] = real ? static_cast<T*>(a.y) + (static_cast<int64_t>(span.first + token) * a.heads + head) * HeadDim : nullptr;
      high[h] = real ? span.past + token : -1;
      low[h] = a.window > 0 ? max(0, high[h] - a.window + 1) : 0;
    }
    const int first_token = span.past + row0 / group, last_token = span.past + (min(row0 + kRows, rows) - 1) / group;
    begin = a.window > 0 ? max(0, first_token - a.window + 1) / kCachePage : 0, end = last_token / kCachePage;
  }
};

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

}  // namespace awq::cuda
