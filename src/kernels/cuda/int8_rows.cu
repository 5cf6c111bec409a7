// Inputs to int8, products of few tokens with int8 weights, and scaling of integer sums.
#include <algorithm>

#include "kernels/cuda/fragments.cuh"
#include "kernels/cuda/int8_kernels.h"
#include "kernels/cuda/launch.cuh"

namespace awq::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;

__device__ __forceinline__ float widen(__half v) { return __half2float(v); }
__device__ __forceinline__ float widen(__nv_bfloat16 v) { return __bfloat162float(v); }
__device__ __forceinline__ void narrow(float v, __half* to) { *to = __float2half_rn(v); }
__device__ __forceinline__ void narrow(float v, __nv_bfloat16* to) { *to = __float2bfloat16_rn(v); }

// A block per token, eight numbers a thread and turn.
template <class T>
__global__ void __launch_bounds__(kThreads) round_tokens_kernel(const T* x, int in, int8_t* q, float* scales) {
  __shared__ float tops[kWarps];
  allow_successor();
  wait_for_predecessor();
  const T* row = x + static_cast<int64_t>(blockIdx.x) * in;
  float top = 0;
  for (int k = threadIdx.x * 8; k < in; k += kThreads * 8) {
    const uint4 words = *reinterpret_cast<const uint4*>(row + k);
    const T* v = reinterpret_cast<const T*>(&words);
#pragma unroll
    for (int i = 0; i < 8; ++i) top = fmaxf(top, fabsf(widen(v[i])));
  }
#pragma unroll
  for (int i = 16; i > 0; i /= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, i));
  if (threadIdx.x % 32 == 0) tops[threadIdx.x / 32] = top;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kWarps; ++i) top = fmaxf(top, tops[i]);
  const float scale = __fdiv_rn(top, 127.0f), inverse = scale > 0 ? __fdiv_rn(1.0f, scale) : 0.0f;
  if (threadIdx.x == 0) scales[blockIdx.x] = scale;
  int8_t* to = q + static_cast<int64_t>(blockIdx.x) * in;
  for (int k = threadIdx.x * 8; k < in; k += kThreads * 8) {
    const uint4 words = *reinterpret_cast<const uint4*>(row + k);
    const T* v = reinterpret_cast<const T*>(&words);
    uint32_t packed[2] = {};
#pragma unroll
    for (int i = 0; i < 8; ++i) packed[i / 4] |= (static_cast<uint32_t>(__float2int_rn(widen(v[i]) * inverse)) & 255u) << (i % 4 * 8);
    *reinterpret_cast<uint2*>(to + k) = make_uint2(packed[0], packed[1]);
  }
}

// A warp per output; its row of the weight passes by once.
template <class T, int Tokens>
__global__ void __launch_bounds__(kThreads) int8_gemv_kernel(const __grid_constant__ Int8Args args) {
  const int64_t n = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  allow_successor();
  wait_for_predecessor();
  if (n >= args.out) return;
  const int8_t* row = args.w + n * args.in;
  int sums[Tokens] = {};
#pragma unroll 4
  for (int k = lane * 16; k < args.in; k += 512) {
    const int4 w = __ldcs(reinterpret_cast<const int4*>(row + k));
#pragma unroll
    for (int t = 0; t < Tokens; ++t) {
      const int4 x = __ldg(reinterpret_cast<const int4*>(args.x + static_cast<int64_t>(t) * args.in + k));
      sums[t] = __dp4a(w.x, x.x, __dp4a(w.y, x.y, __dp4a(w.z, x.z, __dp4a(w.w, x.w, sums[t]))));
    }
  }
  const float scale = args.w_scales[n];
#pragma unroll
  for (int t = 0; t < Tokens; ++t) {
    const int sum = __reduce_add_sync(~0u, sums[t]);
    if (lane == 0) narrow(static_cast<float>(sum) * (scale * args.x_scales[t]), static_cast<T*>(args.y) + t * args.ldy + n);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) int8_scale_kernel(const int32_t* sums, const __grid_constant__ Int8Args args) {
  const int64_t all = static_cast<int64_t>(args.tokens) * args.out;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < all; i += static_cast<int64_t>(gridDim.x) * kThreads) {
    const int64_t t = i / args.out, n = i % args.out;
    narrow(static_cast<float>(sums[i]) * (args.w_scales[n] * args.x_scales[t]), static_cast<T*>(args.y) + t * args.ldy + n);
  }
}

template <class T, int... Tokens>
cudaError_t gemv(const Int8Args& args, cudaStream_t stream, std::integer_sequence<int, Tokens...>) {
  const LaunchShape shape{(args.out + kWarps - 1) / kWarps, kThreads, 1};
  cudaError_t error = cudaErrorInvalidValue;
  ((args.tokens == Tokens + 1 ? (void)(error = launch_kernel(int8_gemv_kernel<T, Tokens + 1>, true, shape, 0, stream, args)) : (void)0),
   ...);
  return error;
}

}  // namespace

cudaError_t launch_round_tokens(Act act, const void* x, int tokens, int in, int8_t* q, float* scales, cudaStream_t stream) {
  const LaunchShape shape{tokens, kThreads, 1};
  if (act == Act::kF16)
    return launch_kernel(round_tokens_kernel<__half>, true, shape, 0, stream, static_cast<const __half*>(x), in, q, scales);
  return launch_kernel(round_tokens_kernel<__nv_bfloat16>, true, shape, 0, stream, static_cast<const __nv_bfloat16*>(x), in, q, scales);
}

cudaError_t launch_int8_gemv(Act act, const Int8Args& args, cudaStream_t stream) {
  const std::make_integer_sequence<int, kInt8FewTokens> tokens;
  return act == Act::kF16 ? gemv<__half>(args, stream, tokens) : gemv<__nv_bfloat16>(args, stream, tokens);
}

cudaError_t launch_int8_scale(Act act, const int32_t* sums, const Int8Args& args, cudaStream_t stream) {
  const int64_t all = static_cast<int64_t>(args.tokens) * args.out;
  const LaunchShape shape{static_cast<int>(std::min<int64_t>((all + kThreads - 1) / kThreads, 4096)), kThreads, 1};
  if (act == Act::kF16) return launch_kernel(int8_scale_kernel<__half>, false, shape, 0, stream, sums, args);
  return launch_kernel(int8_scale_kernel<__nv_bfloat16>, false, shape, 0, stream, sums, args);
}

}  // namespace awq::cuda
