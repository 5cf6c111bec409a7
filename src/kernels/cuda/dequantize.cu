// The packed form back to dense fp16 or bf16 rows, for products that cuBLAS does best.
#include <cstdint>

#include "kernels/cuda/dequantize.h"
#include "kernels/cuda/fragments.cuh"
#include "kernels/cuda/launch.cuh"

namespace awq::cuda {
namespace {

constexpr int kWarps = 8;

// A step's eight numbers in fp32, not scaled, in the order of operand A's registers; whole warps call it. NF4's table goes through no
// 16-bit number here: each lane has one of its values.
template <class T, Format F>
__device__ __forceinline__ void unscaled(const BlockCodes<F>& codes, const GroupParams<T, F>& params, float value, int i, float2 v[4]) {
  if constexpr (F == Format::kNf4) {
    const uint32_t w = codes.word(i);
#pragma unroll
    for (int j = 0; j < 4; ++j)
      v[j] = {__shfl_sync(~0u, value, w >> 8 * j & 15u), __shfl_sync(~0u, value, w >> (8 * j + 4) & 15u)};
  } else {
    uint32_t a[4];
    codes.unscaled(params, i, a);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const T* pair = reinterpret_cast<const T*>(&a[j]);
      v[j] = {static_cast<float>(pair[0]), static_cast<float>(pair[1])};
    }
  }
}

__constant__ float nf4_table[16] = {kNf4Table[0],  kNf4Table[1],  kNf4Table[2],  kNf4Table[3], kNf4Table[4],  kNf4Table[5],
                                    kNf4Table[6],  kNf4Table[7],  kNf4Table[8],  kNf4Table[9], kNf4Table[10], kNf4Table[11],
                                    kNf4Table[12], kNf4Table[13], kNf4Table[14], kNf4Table[15]};

// One warp turns one strip x block into 16 rows of 128 bytes, through shared memory so that rows leave in
// whole lines. The scale's power of two is undone here: dense weights stand for themselves.
template <class T, Format F, int Groups>
__global__ void __launch_bounds__(kWarps * 32)
    dequantize_kernel(PackedView w, int first_strip, int strips, T* out) {
  __shared__ __align__(16) unsigned char tiles[kWarps][kStripRows * 144];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t unit = static_cast<int64_t>(blockIdx.x) * kWarps + warp;
  const int strip = first_strip + static_cast<int>(unit / w.blocks),
            block = static_cast<int>(unit % w.blocks);
  if (unit >= static_cast<int64_t>(strips) * w.blocks) return;
  BlockCodes<F> codes;
#pragma unroll
  for (int p = 0; p < codes.kParts; ++p)
    codes.parts[p] = __ldg(reinterpret_cast<const uint4*>(static_cast<const char*>(w.codes) +
                                                          (static_cast<int64_t>(strip) * w.blocks + block) * fragment_bytes(F) +
                                                          p * kFragmentBytes) +
                           lane);
  const float value = F == Format::kNf4 ? nf4_table[lane % 16] : 0;
  unsigned char* tile = tiles[warp];
  const float unscale = w.out_scale;
  float2 scale;
  GroupParams<T, F> params;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (i % (4 / Groups) == 0) {
      const int group = Groups == 2 ? 2 * block + i / 2 : block / w.group_blocks;
      const unsigned char* g = static_cast<const unsigned char*>(w.scales) +
                               (static_cast<int64_t>(strip / 8) * w.groups + group) * scale_bytes(F);
      const uint32_t s = *reinterpret_cast<const uint32_t*>(g + strip % 8 * 32 + lane / 4 * 4);
      params.set(load_zeros<F>(g + kZeroOffset + strip % 8 * zero_bytes(F), lane));
      scale = __half22float2(as_half2(s));
      scale.x *= unscale, scale.y *= unscale;
    }
    float2 v[4];
    unscaled(codes, params, value, i, v);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float s = j % 2 ? scale.y : scale.x;
      *reinterpret_cast<uint32_t*>(tile + (lane / 4 + j % 2 * 8) * 144 + (16 * i + lane % 4 * 2 + j / 2 * 8) * 2) =
          pack_pair<T>(v[j].x * s, v[j].y * s);
    }
  }
  __syncwarp();
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = i * 4 + lane / 8, col = lane % 8 * 8;
    const int64_t to_row = static_cast<int64_t>(strip - first_strip) * kStripRows + row;
    if (strip * kStripRows + row < w.out && block * kBlockCols + col < w.in)
      *reinterpret_cast<uint4*>(out + to_row * w.in + block * kBlockCols + col) =
          *reinterpret_cast<const uint4*>(tile + row * 144 + col * 2);
  }
}

template <class T, Format F>
cudaError_t launch(const PackedView& w, int first_strip, int strips, void* out, cudaStream_t stream) {
  const int64_t units = static_cast<int64_t>(strips) * w.blocks;
  const LaunchShape shape{static_cast<int>((units + kWarps - 1) / kWarps), kWarps * 32, 1};
  return launch_kernel(w.groups_per_block == 2 ? dequantize_kernel<T, F, 2> : dequantize_kernel<T, F, 1>, false, shape, 0, stream, w,
                       first_strip, strips, static_cast<T*>(out));
}

template <class T>
cudaError_t launch(const PackedView& w, int first_strip, int strips, void* out, cudaStream_t stream) {
  switch (w.format) {
    case Format::kAffine8: return launch<T, Format::kAffine8>(w, first_strip, strips, out, stream);
    case Format::kNf4: return launch<T, Format::kNf4>(w, first_strip, strips, out, stream);
    default: return launch<T, Format::kAffine4>(w, first_strip, strips, out, stream);
  }
}

}  // namespace

cudaError_t dequantize_strips(const PackedView& w, int first_strip, int strips, Act act, void* out,
                              cudaStream_t stream) {
  return act == Act::kF16 ? launch<__half>(w, first_strip, strips, out, stream)
                          : launch<__nv_bfloat16>(w, first_strip, strips, out, stream);
}

}  // namespace awq::cuda
