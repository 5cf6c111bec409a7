// Attention over the paged cache on the tensor cores, operands straight from memory to registers: a warp owns 16 rows, each a
// query token and a head of the key head's group, and walks the pages of 16 keys (online softmax: FlashAttention, Dao et al.
// 2022; parts of a long cache side by side: flash-decoding, Dao et al. 2023). What the kernels of attention*.cu share.
#pragma once
#include <type_traits>

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

// A page of a key head as operands for activations of type T: lane n = lane / 4 and c = lane % 4 hold keys' elements 8c .. 8c + 7 of
// each 32, and of the values element 8i + n of keys 4c .. 4c + 3. Column n of tile j stands for key 4 (n / 2) + 2 j + n % 2: then a lane's
// weights are those of four consecutive keys. Stored is T, or uint8_t for a cache in 8 bits.
template <class T, class Stored, int HeadDim>
struct Page {
  static_assert(std::is_same_v<T, Stored>);
  static __device__ __forceinline__ int64_t head_elements(const CacheView& cache) { return int64_t{2} * kCachePage * cache.head_dim; }
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
  __device__ __forceinline__ uint4 key(int i, int j) const { return keys[i][j]; }
  __device__ __forceinline__ uint2 value(int i) const { return values[i]; }
};

// Four codes of an 8-bit cache less 128, exact in both types. fp16: 0x6400 | b is 1024 + b. bf16: 0x4300 | b % 128 is 128 + b % 128, and
// -256 + 128 (b / 128) is what it lacks.
template <class T>
__device__ __forceinline__ uint2 integers_of(uint32_t codes) {
  constexpr bool kHalf = std::is_same_v<T, __half>;
  const auto two = [codes](uint32_t which) {
    const uint32_t above = __byte_perm(codes, kHalf ? 0x64646464u : 0x43434343u, which);
    if constexpr (kHalf)
      return as_bits(__hsub2(as_half2(above), as_half2(0x64806480u)));
    else
      return as_bits(__hadd2(as_bf162(above & 0xff7fff7fu), as_bf162((above & 0x00800080u) ^ 0xc380c380u)));
  };
  return make_uint2(two(0x4140), two(0x4342));
}

// cache_int8.h has the layout. The scales are those of keys and values 4c .. 4c + 3.
template <class T, int HeadDim>
struct Page<T, uint8_t, HeadDim> {
  static __device__ __forceinline__ int64_t head_elements(const CacheView& cache) { return int8_head_bytes(cache.head_dim); }
  uint4 keys[HeadDim / 32], values[HeadDim / 32];
  float key_scales[4], value_scales[4];

  template <bool Cached>
  __device__ __forceinline__ void load(const uint8_t* head, int lane) {
    const auto get = [](const auto* p) { return Cached ? *p : __ldcg(p); };
    const uint4* codes = reinterpret_cast<const uint4*>(head) + lane;
#pragma unroll
    for (int i = 0; i < HeadDim / 32; ++i) keys[i] = get(codes + i * 32);
#pragma unroll
    for (int i = 0; i < HeadDim / 32; ++i) values[i] = get(codes + HeadDim + i * 32);
    const float4* scales = reinterpret_cast<const float4*>(head + 2 * int8_codes_bytes(HeadDim)) + lane % 4;
    const float4 k = get(scales), v = get(scales + kCachePage / 4);
    key_scales[0] = k.x, key_scales[1] = k.y, key_scales[2] = k.z, key_scales[3] = k.w;
    value_scales[0] = v.x, value_scales[1] = v.y, value_scales[2] = v.z, value_scales[3] = v.w;
  }
  __device__ __forceinline__ uint4 key(int i, int j) const {
    const uint2 a = integers_of<T>(j == 0 ? keys[i].x : keys[i].z), b = integers_of<T>(j == 0 ? keys[i].y : keys[i].w);
    return make_uint4(a.x, a.y, b.x, b.y);
  }
  __device__ __forceinline__ uint2 value(int i) const {
    const uint4& v = values[i / 4];
    return integers_of<T>(i % 4 == 0 ? v.x : i % 4 == 1 ? v.y : i % 4 == 2 ? v.z : v.w);
  }
};

// The power of 2 that a row's largest weight of a page is or exceeds, and its inverse; 0 where there is no weight.
struct WeightUnit {
  float value, inverse;
  __device__ __forceinline__ void set(const float w[4]) {
    float most = fmaxf(fmaxf(w[0], w[1]), fmaxf(w[2], w[3]));
    most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
    most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
    const uint32_t exponent = __float_as_uint(most) & 0x7f800000u;
    value = __uint_as_float(exponent), inverse = __uint_as_float(0x7f000000u - exponent);
  }
};

// first: position of the page's first key; a row sees keys from low[] to high[]. Operations that a compiler might fuse in one kernel
// and not in another are named, so that all kernels that walk pages do the same. In 8 bits a weight is multiplied by its value's scale.
// The product may lie far below fp16's numbers, so there a row takes a page in units of its largest; bf16 has fp32's range.
template <class T, class Stored, int HeadDim>
__device__ __forceinline__ void take_page(const Page<T, Stored, HeadDim>& page, int first, const int low[2], const int high[2], float scale,
                                          int lane, const uint32_t q[HeadDim / 16][4], Accumulator<HeadDim>& acc) {
  constexpr bool kInt8 = std::is_same_v<Stored, uint8_t>, kUnits = kInt8 && std::is_same_v<T, __half>;
  const int c = lane % 4;
  float s[2][4] = {};
#pragma unroll
  for (int i = 0; i < HeadDim / 32; ++i)
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const uint4 k = page.key(i, j);
      mma_16x8x16<T>(s[j], q[2 * i], k.x, k.y);
      mma_16x8x16<T>(s[j], q[2 * i + 1], k.z, k.w);
    }
  float scales[4] = {scale, scale, scale, scale};
  if constexpr (kInt8) {
#pragma unroll
    for (int e = 0; e < 4; ++e) scales[e] = __fmul_rn(page.key_scales[e], scale);
  }
  uint32_t p[4];
  float shrinks[2];
  WeightUnit units[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float w[4], top = acc.top[h];
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int key = first + 4 * c + e;
      w[e] = key >= low[h] && key <= high[h] ? __fmul_rn(s[e / 2][2 * h + e % 2], scales[e]) : -INFINITY;
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
    if constexpr (kInt8) {
      // A key that is not seen may have any scale, NaN too.
#pragma unroll
      for (int e = 0; e < 4; ++e) w[e] = w[e] > 0 ? __fmul_rn(w[e], page.value_scales[e]) : 0;
    }
    if constexpr (kUnits) {
      units[h].set(w);
#pragma unroll
      for (int e = 0; e < 4; ++e) w[e] = __fmul_rn(w[e], units[h].inverse);
    }
    p[h] = pack_pair<T>(w[0], w[1]);
    p[2 + h] = pack_pair<T>(w[2], w[3]);
    if constexpr (kUnits) {
      shrinks[h] = shrink;
    } else {
#pragma unroll
      for (int i = 0; i < HeadDim / 8; ++i) acc.o[i][2 * h] *= shrink, acc.o[i][2 * h + 1] *= shrink;
    }
  }
#pragma unroll
  for (int i = 0; i < HeadDim / 8; ++i) {
    const uint2 v = page.value(i);
    if constexpr (kUnits) {
      float sums[4] = {};
      mma_16x8x16<T>(sums, p, v.x, v.y);
#pragma unroll
      for (int e = 0; e < 4; ++e) acc.o[i][e] = __fmaf_rn(sums[e], units[e / 2].value, __fmul_rn(acc.o[i][e], shrinks[e / 2]));
    } else {
      mma_16x8x16<T>(acc.o[i], p, v.x, v.y);
    }
  }
}

template <int HeadDim>
__device__ __forceinline__ void finish_sums(Accumulator<HeadDim>& acc) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    acc.sum[h] += __shfl_xor_sync(~0u, acc.sum[h], 1);
    acc.sum[h] += __shfl_xor_sync(~0u, acc.sum[h], 2);
  }
}

// Whether this block is the last of so many to get here; then it sees what the others wrote before. For whole blocks; *arrivals is 0
// between launches.
__device__ __forceinline__ bool last_to_arrive(uint32_t* arrivals, int blocks) {
  __shared__ uint32_t arrived;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) arrived = atomicAdd(arrivals, 1);
  __syncthreads();
  if (arrived + 1 != static_cast<uint32_t>(blocks)) return false;
  if (threadIdx.x == 0) *arrivals = 0;
  __threadfence();
  return true;
}

// Page i of a span, of key head kv.
template <bool Cached, class T, class Stored, int HeadDim>
__device__ __forceinline__ void load_page(const AttentionArgs& a, const DeviceSpan& span, int i, int kv, int lane,
                                          Page<T, Stored, HeadDim>& page) {
  const int64_t head = page.head_elements(a.cache), all = a.cache.kv_heads * head;
  page.template load<Cached>(static_cast<const Stored*>(a.cache.base) + a.batch.pages[span.pages + i] * all + kv * head, lane);
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

// Calls use<T, Stored, head_dim>() for the activations and the cache.
template <class T, class Stored, class Use>
cudaError_t by_head_dim(int head_dim, const Use& use) {
  switch (head_dim) {
    case 64: return use.template operator()<T, Stored, 64>();
    case 96: return use.template operator()<T, Stored, 96>();
    case 128: return use.template operator()<T, Stored, 128>();
  }
  return cudaErrorInvalidValue;
}
template <class Use>
cudaError_t by_cache(Act act, const CacheView& cache, const Use& use) {
  if (act == Act::kF16)
    return cache.int8 ? by_head_dim<__half, uint8_t>(cache.head_dim, use) : by_head_dim<__half, __half>(cache.head_dim, use);
  return cache.int8 ? by_head_dim<__nv_bfloat16, uint8_t>(cache.head_dim, use)
                    : by_head_dim<__nv_bfloat16, __nv_bfloat16>(cache.head_dim, use);
}

}  // namespace awq::cuda
