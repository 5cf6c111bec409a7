// One head of a token by one warp: bias, norm of queries and keys, rotation; lane l has elements l + 32 i. Shared by the kernel
// that prepares a prompt's heads and by decoding attention, which prepares its own.
#pragma once
#include "kernels/cuda/fragments.cuh"
#include "kernels/cuda/step.h"

namespace awq::cuda {

// Sines and cosines of a position for heads of up to 32 PerLane elements. They need nothing that other kernels write.
template <int PerLane>
struct Rotation {
  static constexpr int kPairs = (PerLane + 1) / 2;
  float sines[kPairs], cosines[kPairs];

  __device__ __forceinline__ void set(const RopeArgs& a, int position, int lane) {
#pragma unroll
    for (int n = 0; n < kPairs; ++n)
      if (const int i = lane + n * 32; i < a.pairs) {
        double turns = position * a.inv_freq[i] * 0.15915494309189535;  // of a circle, so that fp32 sees a small angle
        turns -= rint(turns);
        sincospif(static_cast<float>(2 * turns), &sines[n], &cosines[n]);
        sines[n] *= a.magnitude, cosines[n] *= a.magnitude;
      }
  }
};

// x: the head's elements in qkv. line: [head_dim] of shared memory of this warp; holds the result when the warp has met again.
template <class T, int PerLane>
__device__ __forceinline__ void prepare_head(const RopeArgs& a, const T* x, int head, const Rotation<PerLane>& rotation, float* line,
                                             int lane) {
  const int dim = a.cache.head_dim;
  const bool query = head < a.heads, value = head >= a.heads + a.cache.kv_heads;
  T given[PerLane];
#pragma unroll
  for (int n = 0; n < PerLane; ++n)
    if (const int i = lane + n * 32; i < dim) given[n] = x[i];
  float squares = 0;
#pragma unroll
  for (int n = 0; n < PerLane; ++n)
    if (const int i = lane + n * 32; i < dim) {
      float v = static_cast<float>(given[n]);
      if (a.bias) v += a.bias[head * dim + i];
      line[i] = v;
      squares += v * v;
    }
  if (const float* gain = value ? nullptr : query ? a.q_gain : a.k_gain) {
#pragma unroll
    for (int i = 16; i > 0; i /= 2) squares += __shfl_xor_sync(~0u, squares, i);
    const float inverse = rsqrtf(squares / static_cast<float>(dim) + a.eps);
    for (int i = lane; i < dim; i += 32) line[i] *= inverse * gain[i];
  }
  __syncwarp();
  if (value) return;
#pragma unroll
  for (int n = 0; n < Rotation<PerLane>::kPairs; ++n)
    if (const int i = lane + n * 32; i < a.pairs) {
      const float u = line[i], v = line[i + a.pairs];
      line[i] = u * rotation.cosines[n] - v * rotation.sines[n];
      line[i + a.pairs] = v * rotation.cosines[n] + u * rotation.sines[n];
    }
  __syncwarp();
}

// A key or value to its slot of a head's page in 8 bits, rounded as the CPU's cache is. One that is not finite gets the scale NaN.
__device__ __forceinline__ void store_int8(uint8_t* head, int dim, int slot, bool value, const float* line, int lane) {
  uint32_t bits = 0;  // of the largest magnitude: in their order those of numbers stand as integers, NaN above them
  for (int i = lane; i < dim; i += 32) bits = max(bits, __float_as_uint(line[i]) & 0x7fffffffu);
  bits = __reduce_max_sync(~0u, bits);
  const float top = __uint_as_float(bits);
  const bool finite = bits < 0x7f800000u, usable = finite && top >= 1e-30f;
  const float inverse = usable ? __fdiv_rn(127, top) : 0;
  uint8_t* codes = head + (value ? int8_codes_bytes(dim) : 0);
  for (int i = lane; i < dim; i += 32)
    codes[value ? int8_value_at(slot, i) : int8_key_at(slot, i)] = static_cast<uint8_t>(128 + __float2int_rn(line[i] * inverse));
  if (lane != 0) return;
  float* scales = reinterpret_cast<float*>(head + 2 * int8_codes_bytes(dim)) + (value ? kCachePage : 0);
  scales[slot] = usable ? __fdiv_rn(top, 127) : finite ? 0 : NAN;
}

// A prepared key or value to its place in the cache, by a whole warp; page: the number of the position's page.
template <class T>
__device__ __forceinline__ void store_in_cache(const CacheView& cache, int page, int position, int kv, bool value, const float* line,
                                               int lane) {
  auto* head = static_cast<uint8_t*>(cache.base) + page * cache.page_bytes() + kv * cache.head_bytes();
  const int slot = position % kCachePage;
  if (cache.int8) return store_int8(head, cache.head_dim, slot, value, line, lane);
  T* to = reinterpret_cast<T*>(head);
  if (value) {
    to += kCachePage * cache.head_dim;
    for (int i = lane; i < cache.head_dim; i += 32) to[i * kCachePage + slot] = static_cast<T>(line[i]);
  } else {
    for (int i = lane; i < cache.head_dim; i += 32) to[slot * cache.head_dim + i] = static_cast<T>(line[i]);
  }
}

}  // namespace awq::cuda
