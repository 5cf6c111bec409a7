// Device functions shared by the kernels of quantization: what a group's range becomes, as quant_search.h and quant_search_impl.h have it.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/cuda/quant_kernels.h"

namespace awq::cuda {

constexpr float kMinRange = 1e-5f;  // AutoAWQ's floor of a group's range

__device__ __forceinline__ float round_scale(float s, ScaleType type) {
  if (type == ScaleType::kF16) return fminf(fmaxf(__half2float(__float2half_rn(s)), 0x1p-24f), 65504.0f);
  if (type == ScaleType::kBF16) return fminf(fmaxf(__bfloat162float(__float2bfloat16_rn(s)), 0x1p-17f), 65280.0f);
  return fmaxf(s, 0x1p-126f);
}

struct Pair {
  float scale, zero;
};

__device__ __forceinline__ Pair pair_of_range(float lo, float hi, float top, bool symmetric, ScaleType type) {
  if (symmetric) return {round_scale(fmaxf(fmaxf(-lo, hi), kMinRange) / (0.5f * top), type), (top + 1) / 2};
  const float scale = round_scale(fmaxf(hi - lo, kMinRange) / top, type);
  return {scale, rintf(fminf(fmaxf(-lo / scale, 0.0f), top))};
}

// The code of w for inverse = 1 / scale.
__device__ __forceinline__ float code_of(float w, float inverse, float zero, float top) {
  return rintf(fminf(fmaxf(__fmaf_rn(w, inverse, zero), 0.0f), top));
}

__device__ __forceinline__ float warp_least(float v) {
#pragma unroll
  for (int i = 16; i > 0; i /= 2) v = fminf(v, __shfl_xor_sync(~0u, v, i));
  return v;
}
__device__ __forceinline__ float warp_largest(float v) {
#pragma unroll
  for (int i = 16; i > 0; i /= 2) v = fmaxf(v, __shfl_xor_sync(~0u, v, i));
  return v;
}

}  // namespace awq::cuda
