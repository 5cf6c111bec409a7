// y = x Wᵀ of int8 for many tokens on Hopper. A block computes tiles of 128 tokens x 256 outputs with three warpgroups: a thread of the
// first copies stages of 128 columns of both (128-byte swizzle, zeros beyond the last row and column), the other two multiply 64 tokens
// each. Blocks stay for several tiles, so that the next tile's first stages arrive while this one is scaled and stored.
//
//   stage: x [128 tokens][128] | w [256 outputs][128]
#include <algorithm>

#include "kernels/cuda/fragments.cuh"
#include "kernels/cuda/int8_kernels.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/outputs.cuh"
#include "kernels/cuda/pipeline.cuh"
#include "kernels/cuda/wgmma_int8.cuh"

namespace awq::cuda {
namespace {

constexpr int kStages = 4, kXBytes = kInt8Tokens * kInt8Depth, kStageBytes = kXBytes + kInt8Outs * kInt8Depth;
constexpr int kConsumers = 256, kThreads = 128 + kConsumers;
constexpr int kBarriers = kStages * kStageBytes, kSharedBytes = kBarriers + kStages * 16 + 1024;  // 1,024 to align the base
constexpr int kGroupOuts = 8;  // tiles of outputs that run side by side, for the L2 cache's sake

// Tiles in the order in which they are started.
struct Tiles {
  int tokens, outs, stages;
  __device__ explicit Tiles(const Int8Args& args)
      : tokens((args.tokens + kInt8Tokens - 1) / kInt8Tokens), outs((args.out + kInt8Outs - 1) / kInt8Outs),
        stages((args.in + kInt8Depth - 1) / kInt8Depth) {}
  __device__ int count() const { return tokens * outs; }
  __device__ void position(int tile, int* t, int* n) const {
    const int group = tile / (tokens * kGroupOuts), in_group = tile - group * tokens * kGroupOuts;
    const int width = min(kGroupOuts, outs - group * kGroupOuts);
    *t = in_group / width, *n = group * kGroupOuts + in_group % width;
  }
};

struct Ring {
  uint32_t base;
  int slot = 0;
  uint32_t phase = 0;
  __device__ uint32_t full() const { return base + kBarriers + slot * 16; }
  __device__ uint32_t empty() const { return full() + 8; }
  __device__ uint32_t stage() const { return base + slot * kStageBytes; }
  __device__ void advance() {
    if (++slot == kStages) slot = 0, phase ^= 1;
  }
};

__device__ void produce(const Tiles& tiles, Ring ring, const CUtensorMap* x_map, const CUtensorMap* w_map) {
  ring.phase = 1;  // nobody waits for the first round of slots
  for (int tile = blockIdx.x; tile < tiles.count(); tile += gridDim.x) {
    int t, n;
    tiles.position(tile, &t, &n);
    for (int k = 0; k < tiles.stages; ++k, ring.advance()) {
      barrier_wait(ring.empty(), ring.phase);
      barrier_expect(ring.full(), kStageBytes);
      tensor_copy(ring.stage(), x_map, k * kInt8Depth, t * kInt8Tokens, ring.full());
      tensor_copy(ring.stage() + kXBytes, w_map, k * kInt8Depth, n * kInt8Outs, ring.full());
    }
  }
}

__device__ void multiply(Ring& ring, int stages, int half, int (&acc)[128]) {
  uint32_t before = 0;
  for (int k = 0; k < stages; ++k) {
    barrier_wait(ring.full(), ring.phase);
    const uint32_t x = __reduce_max_sync(~0u, wgmma_descriptor(ring.stage() + half * (kXBytes / 2)));
    const uint32_t w = __reduce_max_sync(~0u, wgmma_descriptor(ring.stage() + kXBytes));
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < kInt8Depth / 32; ++i) wgmma_int8(acc, x + 2 * i, w + 2 * i, k > 0 || i > 0);
    wgmma_commit();
    wgmma_wait<1>();
    if (k > 0) barrier_arrive(before);
    before = ring.empty();
    ring.advance();
  }
  wgmma_wait<0>();
  barrier_arrive(before);
}

// Four lanes hold four words each: afterwards lane c has the c-th word of all four.
__device__ __forceinline__ void transpose(uint32_t (&v)[4], int c) {
  const bool odd = c % 2 != 0, high = c / 2 != 0;
  uint32_t a = __shfl_xor_sync(~0u, odd ? v[0] : v[1], 1), b = __shfl_xor_sync(~0u, odd ? v[2] : v[3], 1);
  if (odd) v[0] = a, v[2] = b;
  else v[1] = a, v[3] = b;
  a = __shfl_xor_sync(~0u, high ? v[0] : v[2], 2), b = __shfl_xor_sync(~0u, high ? v[1] : v[3], 2);
  if (high) v[0] = a, v[1] = b;
  else v[2] = a, v[3] = b;
}

// A lane holds outputs 8 j + 2 c and the next of two tokens; it stores eight outputs of one block in four.
template <class T, bool Gated>
__device__ void store(const Int8Args& args, const int (&acc)[128], int t, int n, int half, int warp, int lane) {
  constexpr int kBlocks = Gated ? kInt8Outs / 16 : kInt8Outs / 8;  // of eight outputs
  const int c = lane % 4, out = Gated ? args.out / 2 : args.out, first = n * kBlocks * 8;
  const float* scales = args.w_scales + n * kInt8Outs + 2 * c;
  const bool whole = out % 8 == 0 && args.ldy % 8 == 0;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int token = t * kInt8Tokens + half * 64 + warp * 16 + r * 8 + lane / 4;
    const bool there = token < args.tokens;
    const float x_scale = there ? args.x_scales[token] : 0.0f;
    T* y = static_cast<T*>(args.y) + static_cast<int64_t>(there ? token : 0) * args.ldy + first;
#pragma unroll
    for (int block = 0; block < kBlocks; block += 4) {
      uint32_t v[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int j = block + i;
        const auto scaled = [&](int at, int pair) {
          const float2 s = __ldg(reinterpret_cast<const float2*>(scales + at * 8));
          return static_cast<float>(acc[4 * at + 2 * r + pair]) * (x_scale * (pair == 0 ? s.x : s.y));
        };
        if constexpr (Gated)
          v[i] = pack_pair<T>(gated(scaled(2 * j, 0), scaled(2 * j + 1, 0)), gated(scaled(2 * j, 1), scaled(2 * j + 1, 1)));
        else
          v[i] = pack_pair<T>(scaled(j, 0), scaled(j, 1));
      }
      transpose(v, c);
      const int column = (block + c) * 8;
      if (!there) continue;
      if (whole && first + column < out) {
        *reinterpret_cast<uint4*>(y + column) = make_uint4(v[0], v[1], v[2], v[3]);
      } else {
        const T* each = reinterpret_cast<const T*>(v);
        for (int e = 0; e < 8 && first + column + e < out; ++e) y[column + e] = each[e];
      }
    }
  }
}

template <class T, bool Gated>
__global__ void __launch_bounds__(kThreads, 1)
    int8_gemm_kernel(const __grid_constant__ Int8Args args, const __grid_constant__ CUtensorMap x_map,
                     const __grid_constant__ CUtensorMap w_map) {
#if __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ unsigned char raw[];
  Ring ring{(shared_address(raw) + 1023) & ~1023u};
  const Tiles tiles(args);
  if (threadIdx.x == 0) {
    for (Ring r = ring; r.phase == 0; r.advance()) {
      barrier_init(r.full(), 1);
      barrier_init(r.empty(), kConsumers);
    }
    barriers_ready();
  }
  __syncthreads();
  if (threadIdx.x < 128) {
    give_registers<40>();
    allow_successor();
    wait_for_predecessor();
    if (threadIdx.x == 0) produce(tiles, ring, &x_map, &w_map);
  } else {
    take_registers<232>();
    wait_for_predecessor();
    const int thread = threadIdx.x - 128, half = thread / 128, warp = thread / 32 % 4, lane = thread % 32;
    for (int tile = blockIdx.x; tile < tiles.count(); tile += gridDim.x) {
      int acc[128], t, n;
      multiply(ring, tiles.stages, half, acc);
      tiles.position(tile, &t, &n);
      store<T, Gated>(args, acc, t, n, half, warp, lane);
    }
  }
#endif
}

template <class T, bool Gated>
cudaError_t start(const Int8Args& args, const CUtensorMap& x_map, const CUtensorMap& w_map, int processors, cudaStream_t stream) {
  const int tiles = (args.tokens + kInt8Tokens - 1) / kInt8Tokens * ((args.out + kInt8Outs - 1) / kInt8Outs);
  return launch_kernel(int8_gemm_kernel<T, Gated>, true, {std::min(tiles, processors), kThreads, 1}, kSharedBytes, stream, args, x_map, w_map);
}

}  // namespace

cudaError_t launch_int8_sm90(Act act, const Int8Args& args, const CUtensorMap& x_map, const CUtensorMap& w_map, int processors,
                             cudaStream_t stream) {
  if (act == Act::kF16)
    return args.gated ? start<__half, true>(args, x_map, w_map, processors, stream) : start<__half, false>(args, x_map, w_map, processors, stream);
  return args.gated ? start<__nv_bfloat16, true>(args, x_map, w_map, processors, stream)
                    : start<__nv_bfloat16, false>(args, x_map, w_map, processors, stream);
}

}  // namespace awq::cuda
