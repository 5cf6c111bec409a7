// The steps between the linears; attention.cu has attention.
#include "kernels/cuda/step.h"

#include <algorithm>

#include "kernels/cuda/fragments.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/rope.cuh"

namespace awq::cuda {
namespace {

template <class T>
__device__ __forceinline__ float widen(T v) {
  return static_cast<float>(v);
}
template <class T>
__device__ __forceinline__ T narrow(float v);
template <>
__device__ __forceinline__ __half narrow<__half>(float v) {
  return __float2half_rn(v);
}
template <>
__device__ __forceinline__ __nv_bfloat16 narrow<__nv_bfloat16>(float v) {
  return __float2bfloat16_rn(v);
}

__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
  for (int i = 16; i > 0; i /= 2) v += __shfl_xor_sync(~0u, v, i);
  return v;
}

// Four elements of a row, as operands of 16 bits.
template <class T>
__device__ __forceinline__ float4 widen4(uint2 v) {
  const T* e = reinterpret_cast<const T*>(&v);
  return make_float4(widen(e[0]), widen(e[1]), widen(e[2]), widen(e[3]));
}
template <class T>
__device__ __forceinline__ uint2 narrow4(float4 v) {
  return make_uint2(pack_pair<T>(v.x, v.y), pack_pair<T>(v.z, v.w));
}
__device__ __forceinline__ float4 operator+(float4 a, float4 b) { return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w}; }

// The first kernel of a step is the only one that lets its successor start after its own wait: what the host sends before a step
// is there for every kernel of it from its start.
template <class T>
__global__ void __launch_bounds__(kEmbedParts * 32) embed_kernel(EmbedArgs a) {
  wait_for_predecessor();
  allow_successor();
  const int64_t token = blockIdx.x, row = token * (a.dim / 4);
  const uint2* from = reinterpret_cast<const uint2*>(static_cast<const T*>(a.table) + static_cast<int64_t>(a.batch.ids[token]) * a.dim);
  float4* to = reinterpret_cast<float4*>(a.residual) + row;
  float squares = 0;
  for (int i = threadIdx.x; i < a.dim / 4; i += blockDim.x) {
    const float4 v = widen4<T>(from[i]);
    to[i] = v;
    if (a.x == nullptr) continue;
    const float4 g = __ldg(reinterpret_cast<const float4*>(a.gain) + i);
    static_cast<uint2*>(a.x)[row + i] = narrow4<T>({v.x * g.x, v.y * g.y, v.z * g.z, v.w * g.w});
    squares += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
  }
  if (a.x == nullptr) return;
  squares = warp_sum(squares);
  float* parts = a.after.sums + token * a.after.stride();
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = squares;
  if (threadIdx.x == 0) parts[a.after.count] = 1;
}

constexpr int kNormThreads = 512, kNormKept = 4;  // times 4 elements a thread keeps: dim up to 8,192; beyond they are read again

// Every load of a row is under way before the first is used: a step waits for this kernel 65 times in a model of 32 blocks, and a
// row at a time leaves one block alone on the device.
template <class T>
__global__ void __launch_bounds__(kNormThreads) add_norm_kernel(NormArgs a) {
  __shared__ float parts[kNormThreads / 32];
  allow_successor();
  const int quads = a.dim / 4;
  const float4* gain = reinterpret_cast<const float4*>(a.gain);
  const float4* bias = reinterpret_cast<const float4*>(a.bias);
  float4 gains[kNormKept], kept[kNormKept];
#pragma unroll
  for (int n = 0; n < kNormKept; ++n)
    if (const int i = threadIdx.x + n * kNormThreads; i < quads) gains[n] = __ldg(gain + i);
  wait_for_predecessor();
  const int64_t row = static_cast<int64_t>(blockIdx.x) * quads;
  float4* residual = reinterpret_cast<float4*>(a.residual) + row;
  const uint2* delta = a.delta ? static_cast<const uint2*>(a.delta) + row : nullptr;
  uint2 added[kNormKept];
#pragma unroll
  for (int n = 0; n < kNormKept; ++n)
    if (const int i = threadIdx.x + n * kNormThreads; i < quads) {
      kept[n] = residual[i];
      added[n] = delta ? delta[i] : make_uint2(0, 0);
    }
  float sum = 0;
  const auto take = [&](int i, float4 v, uint2 d) {
    if (delta) v = v + widen4<T>(d);
    if (bias) v = v + __ldg(bias + i);
    if (delta || bias) residual[i] = v;
    sum += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
    return v;
  };
#pragma unroll
  for (int n = 0; n < kNormKept; ++n)
    if (const int i = threadIdx.x + n * kNormThreads; i < quads) kept[n] = take(i, kept[n], added[n]);
  for (int i = threadIdx.x + kNormKept * kNormThreads; i < quads; i += kNormThreads)
    take(i, residual[i], delta ? delta[i] : make_uint2(0, 0));
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = sum;
  __syncthreads();
  sum = 0;
#pragma unroll
  for (int i = 0; i < kNormThreads / 32; ++i) sum += parts[i];
  const float inverse = rsqrtf(sum / static_cast<float>(a.dim) + a.eps);
  uint2* y = static_cast<uint2*>(a.y) + row;
  float4* y32 = a.y32 ? reinterpret_cast<float4*>(a.y32) + row : nullptr;
  const auto put = [&](int i, float4 v, float4 g) {
    v = {v.x * inverse * g.x, v.y * inverse * g.y, v.z * inverse * g.z, v.w * inverse * g.w};
    y[i] = narrow4<T>(v);
    if (y32) y32[i] = v;
  };
#pragma unroll
  for (int n = 0; n < kNormKept; ++n)
    if (const int i = threadIdx.x + n * kNormThreads; i < quads) put(i, kept[n], gains[n]);
  for (int i = threadIdx.x + kNormKept * kNormThreads; i < quads; i += kNormThreads) put(i, residual[i], __ldg(gain + i));
}

constexpr int kRopeWarps = 4, kRopeDim = 512;

// A warp per token and head.
template <class T>
__global__ void __launch_bounds__(kRopeWarps * 32) rope_cache_kernel(RopeArgs a) {
  __shared__ float lines[kRopeWarps][kRopeDim];
  allow_successor();
  const int dim = a.cache.head_dim, all = a.heads + 2 * a.cache.kv_heads;
  const int64_t unit = static_cast<int64_t>(blockIdx.x) * kRopeWarps + threadIdx.x / 32;
  const int token = static_cast<int>(unit / all), head = static_cast<int>(unit % all), lane = threadIdx.x % 32;
  if (token >= a.batch.tokens) return wait_for_predecessor();
  float* line = lines[threadIdx.x / 32];
  const bool query = head < a.heads, value = head >= a.heads + a.cache.kv_heads;
  const int position = a.batch.positions[token];
  const int page = query ? 0 : a.batch.pages[a.batch.spans[a.batch.span_of[token]].pages + position / kCachePage];
  Rotation<kRopeDim / 32> rotation;
  if (!value) rotation.set(a, position, lane);
  wait_for_predecessor();
  T* x = static_cast<T*>(a.qkv) + unit * dim;
  prepare_head<T>(a, x, head, rotation, line, lane);
  if (query)
    for (int i = lane; i < dim; i += 32) x[i] = narrow<T>(line[i]);
  else
    store_in_cache<T>(a.cache, page, position, (head - a.heads) % a.cache.kv_heads, value, line, lane);
}

constexpr int kSiluThreads = 128;

template <class T>
__global__ void __launch_bounds__(kSiluThreads)
    silu_mul_kernel(const T* gate_up, const float* bias, bool by_strips, int64_t n, int dim, T* y) {
  allow_successor();
  wait_for_predecessor();
  const int64_t i = 4 * (static_cast<int64_t>(blockIdx.x) * kSiluThreads + threadIdx.x);
  if (i >= n) return;
  const int64_t t = i / dim, c = i % dim;
  const T* row = gate_up + t * 2 * dim + (by_strips ? c / 8 * 16 + c % 8 : c);
  float4 g = widen4<T>(*reinterpret_cast<const uint2*>(row)), u = widen4<T>(*reinterpret_cast<const uint2*>(row + (by_strips ? 8 : dim)));
  if (bias) g = g + *reinterpret_cast<const float4*>(bias + c), u = u + *reinterpret_cast<const float4*>(bias + dim + c);
  *reinterpret_cast<uint2*>(y + i) =
      narrow4<T>(make_float4(gated(g.x, u.x), gated(g.y, u.y), gated(g.z, u.z), gated(g.w, u.w)));
}

constexpr int kArgmaxThreads = 256;
static_assert(kArgmaxParts <= 32, "a lane per part");

struct Best {
  float value = -INFINITY;
  int at = 0x7fffffff;
  __device__ __forceinline__ void take(float v, int i) {
    if (v > value || (v == value && i < at)) value = v, at = i;
  }
  __device__ __forceinline__ void meet() {
#pragma unroll
    for (int i = 16; i > 0; i /= 2) take(__shfl_xor_sync(~0u, value, i), __shfl_xor_sync(~0u, at, i));
  }
};

// Block: row x part of it; the last one to end joins the row's parts.
__global__ void __launch_bounds__(kArgmaxThreads) argmax_kernel(const float* logits, int64_t vocab, uint32_t* scratch, int* ids) {
  allow_successor();
  wait_for_predecessor();
  __shared__ float values[kArgmaxThreads / 32];
  __shared__ int places[kArgmaxThreads / 32];
  const int row = blockIdx.x / kArgmaxParts, part = blockIdx.x % kArgmaxParts;
  const float* line = logits + row * vocab;
  const int64_t each = (vocab + kArgmaxParts - 1) / kArgmaxParts, end = min(vocab, (part + 1) * each);
  Best best;
  constexpr int kAtOnce = 16;
  for (int64_t first = part * each + threadIdx.x; first < end; first += kArgmaxThreads * kAtOnce) {
    float v[kAtOnce];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      const int64_t i = first + k * kArgmaxThreads;
      v[k] = i < end ? line[i] : -INFINITY;
    }
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k)
      if (v[k] > best.value) best.value = v[k], best.at = static_cast<int>(first) + k * kArgmaxThreads;
  }
  best.meet();
  if (threadIdx.x % 32 == 0) values[threadIdx.x / 32] = best.value, places[threadIdx.x / 32] = best.at;
  __syncthreads();
  if (threadIdx.x >= 32) return;
  best = Best();
  if (threadIdx.x < kArgmaxThreads / 32) best.take(values[threadIdx.x], places[threadIdx.x]);
  best.meet();
  uint32_t* own = scratch + row * kArgmaxScratch;  // arrivals, then the parts' values and places
  uint32_t arrived = 0;
  if (threadIdx.x == 0) {
    own[1 + part] = __float_as_uint(best.value), own[1 + kArgmaxParts + part] = static_cast<uint32_t>(best.at);
    __threadfence();
    arrived = atomicAdd(own, 1);
  }
  if (__shfl_sync(~0u, arrived, 0) != kArgmaxParts - 1) return;
  __threadfence();
  best = Best();
  if (threadIdx.x < kArgmaxParts)
    best.take(__uint_as_float(__ldcg(own + 1 + threadIdx.x)), static_cast<int>(__ldcg(own + 1 + kArgmaxParts + threadIdx.x)));
  best.meet();
  if (threadIdx.x == 0) ids[row] = best.at == 0x7fffffff ? 0 : best.at, *own = 0;  // 0: a row of NaN
}

template <class T>
__global__ void round_kernel(const float* x, int64_t n, T* y) {
  allow_successor();
  wait_for_predecessor();
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += int64_t{gridDim.x} * blockDim.x)
    y[i] = narrow<T>(x[i]);
}
template <class T>
__global__ void widen_kernel(const T* x, int64_t n, float* y) {
  allow_successor();
  wait_for_predecessor();
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += int64_t{gridDim.x} * blockDim.x)
    y[i] = widen(x[i]);
}

constexpr int kHeadWarps = 8;

// A warp per output; a lane reads 16 codes at a time. A row is summed the same way whatever their number.
template <class T, int Rows>
__global__ void __launch_bounds__(kHeadWarps * 32)
    head8_kernel(const uint8_t* codes, const float* scales, const float* zeros, int64_t out, int in, int group, const T* x,
                 float* y) {
  const int64_t n = static_cast<int64_t>(blockIdx.x) * kHeadWarps + threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  allow_successor();
  wait_for_predecessor();
  if (n >= out) return;
  float sums[Rows] = {};
  for (int k = lane * 16; k < in; k += 512) {
    const uint4 word = __ldcs(reinterpret_cast<const uint4*>(codes + n * in + k));
    const int64_t g = n * (in / group) + k / group;
    const float scale = scales[g], zero = zeros[g];
    const uint32_t words[4] = {word.x, word.y, word.z, word.w};
    float w[16];
#pragma unroll
    for (int i = 0; i < 16; ++i) w[i] = (static_cast<float>(words[i / 4] >> (i % 4 * 8) & 255u) - zero) * scale;
#pragma unroll
    for (int r = 0; r < Rows; ++r) {
      const uint4 halves[2] = {__ldg(reinterpret_cast<const uint4*>(x + static_cast<int64_t>(r) * in + k)),
                               __ldg(reinterpret_cast<const uint4*>(x + static_cast<int64_t>(r) * in + k) + 1)};
      const T* v = reinterpret_cast<const T*>(halves);
#pragma unroll
      for (int i = 0; i < 16; ++i) sums[r] = __fmaf_rn(w[i], widen(v[i]), sums[r]);
    }
  }
#pragma unroll
  for (int r = 0; r < Rows; ++r) {
    const float sum = warp_sum(sums[r]);
    if (lane == 0) y[r * out + n] = sum;
  }
}

int blocks_of(int64_t n, int threads) { return static_cast<int>((n + threads - 1) / threads); }

template <class F16, class BF16>
cudaError_t by_act(Act act, const F16& f16, const BF16& bf16) {
  return act == Act::kF16 ? f16() : bf16();
}

template <class T>
cudaError_t head8(const uint8_t* codes, const float* scales, const float* zeros, int64_t out, int in, int group, const void* x,
                  int rows, float* y, cudaStream_t stream) {
  const LaunchShape shape{blocks_of(out, kHeadWarps), kHeadWarps * 32, 1};
  const auto start = [&](auto kernel) {
    return launch_kernel(kernel, starts_early(), shape, 0, stream, codes, scales, zeros, out, in, group, static_cast<const T*>(x), y);
  };
  switch (rows) {
    case 1: return start(head8_kernel<T, 1>);
    case 2: return start(head8_kernel<T, 2>);
    case 3: return start(head8_kernel<T, 3>);
    case 4: return start(head8_kernel<T, 4>);
    case 5: return start(head8_kernel<T, 5>);
    case 6: return start(head8_kernel<T, 6>);
    case 7: return start(head8_kernel<T, 7>);
    case 8: return start(head8_kernel<T, 8>);
  }
  return cudaErrorInvalidValue;
}

}  // namespace

#define AWQ_BY_ACT(CALL)                                               \
  by_act(                                                              \
      act,                                                             \
      [&] {                                                            \
        using T = __half;                                              \
        return CALL;                                                   \
      },                                                               \
      [&] {                                                            \
        using T = __nv_bfloat16;                                       \
        return CALL;                                                   \
      })

cudaError_t launch_embed(Act act, const EmbedArgs& args, cudaStream_t stream) {
  return AWQ_BY_ACT(launch_kernel(embed_kernel<T>, starts_early(), {args.batch.tokens, kEmbedParts * 32, 1}, 0, stream, args));
}

cudaError_t launch_add_norm(Act act, const NormArgs& args, cudaStream_t stream) {
  return AWQ_BY_ACT(launch_kernel(add_norm_kernel<T>, starts_early(), {args.tokens, kNormThreads, 1}, 0, stream, args));
}

cudaError_t launch_rope_cache(Act act, const RopeArgs& args, cudaStream_t stream) {
  const int64_t units = static_cast<int64_t>(args.batch.tokens) * (args.heads + 2 * args.cache.kv_heads);
  return AWQ_BY_ACT(launch_kernel(rope_cache_kernel<T>, starts_early(), {blocks_of(units, kRopeWarps), kRopeWarps * 32, 1}, 0, stream,
                                  args));
}

cudaError_t launch_silu_mul(Act act, const void* gate_up, const float* bias, bool by_strips, int tokens, int dim, void* y,
                            cudaStream_t stream) {
  const int64_t n = static_cast<int64_t>(tokens) * dim;
  return AWQ_BY_ACT(launch_kernel(silu_mul_kernel<T>, starts_early(), {blocks_of(n / 4, kSiluThreads), kSiluThreads, 1}, 0, stream,
                                  static_cast<const T*>(gate_up), bias, by_strips, n, dim, static_cast<T*>(y)));
}

cudaError_t launch_argmax(const float* logits, int rows, int64_t vocab, uint32_t* scratch, int* ids, cudaStream_t stream) {
  return launch_kernel(argmax_kernel, starts_early(), {rows * kArgmaxParts, kArgmaxThreads, 1}, 0, stream, logits, vocab, scratch, ids);
}

cudaError_t launch_round(Act act, const float* x, int64_t n, void* y, cudaStream_t stream) {
  const int blocks = std::min(blocks_of(n, 256), 4096);
  return AWQ_BY_ACT(launch_kernel(round_kernel<T>, starts_early(), {blocks, 256, 1}, 0, stream, x, n, static_cast<T*>(y)));
}

cudaError_t launch_widen(Act act, const void* x, int64_t n, float* y, cudaStream_t stream) {
  const int blocks = std::min(blocks_of(n, 256), 4096);
  return AWQ_BY_ACT(launch_kernel(widen_kernel<T>, starts_early(), {blocks, 256, 1}, 0, stream, static_cast<const T*>(x), n, y));
}

cudaError_t launch_head8(Act act, const uint8_t* codes, const float* scales, const float* zeros, int64_t out, int in, int group,
                         const void* x, int rows, float* y, cudaStream_t stream) {
  return AWQ_BY_ACT(head8<T>(codes, scales, zeros, out, in, group, x, rows, y, stream));
}

}  // namespace awq::cuda
