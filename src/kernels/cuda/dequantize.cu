// The packed form back to dense fp16 or bf16 rows, for products that cuBLAS does best.
#include <cstdint>

#include "kernels/cuda/dequantize.h"
#include "kernels/cuda/fragments.cuh"
#include "kernels/cuda/launch.cuh"

namespace awq::cuda {
namespace {

constexpr int kWarps = 8;

// One warp turns one strip x block into 16 rows of 128 bytes, through shared memory so that rows leave in
// whole lines. The scale's power of two is undone here: dense weights stand for themselves.
template <class T, int Groups>
__global__ void __launch_bounds__(kWarps * 32)
    dequantize_kernel(PackedView w, int first_strip, int strips, T* out) {
  __shared__ __align__(16) unsigned char tiles[kWarps][kStripRows * 144];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t unit = static_cast<int64_t>(blockIdx.x) * kWarps + warp;
  const int strip = first_strip + static_cast<int>(unit / w.blocks),
            block = static_cast<int>(unit % w.blocks);
  if (unit >= static_cast<int64_t>(strips) * w.blocks) return;
  const uint4 codes = __ldg(
      reinterpret_cast<const uint4*>(static_cast<const char*>(w.codes) +
                                     (static_cast<int64_t>(strip) * w.blocks + block) * kFragmentBytes) +
      lane);
  unsigned char* tile = tiles[warp];
  const float unscale = w.out_scale;
  float2 scale;
  GroupParams<T> params;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (i % (4 / Groups) == 0) {
      const int group = Groups == 2 ? 2 * block + i / 2 : block / w.group_blocks;
      const unsigned char* g = static_cast<const unsigned char*>(w.scales) +
                               (static_cast<int64_t>(strip / 8) * w.groups + group) * kScaleBytes;
      const uint32_t s = *reinterpret_cast<const uint32_t*>(g + strip % 8 * 32 + lane / 4 * 4);
      params.set(s, g[kZeroOffset + strip % 8 * 8 + lane / 4]);
      scale = __half22float2(as_half2(s));
      scale.x *= unscale, scale.y *= unscale;
    }
    uint32_t a[4];
    params.integers(i == 0 ? codes.x : i == 1 ? codes.y : i == 2 ? codes.z : codes.w, a);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const T* pair = reinterpret_cast<const T*>(&a[j]);
      const float s = j % 2 ? scale.y : scale.x;
      const uint32_t v = pack_pair<T>(static_cast<float>(pair[0]) * s, static_cast<float>(pair[1]) * s);
      *reinterpret_cast<uint32_t*>(tile + (lane / 4 + j % 2 * 8) * 144 +
                                   (16 * i + lane % 4 * 2 + j / 2 * 8) * 2) = v;
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

template <class T>
cudaError_t launch(const PackedView& w, int first_strip, int strips, void* out, cudaStream_t stream) {
  const int64_t units = static_cast<int64_t>(strips) * w.blocks;
  const LaunchShape shape{static_cast<int>((units + kWarps - 1) / kWarps), kWarps * 32, 1};
  if (w.groups_per_block == 2)
    return launch_kernel(dequantize_kernel<T, 2>, false, shape, 0, stream, w, first_strip, strips,
                         static_cast<T*>(out));
  return launch_kernel(dequantize_kernel<T, 1>, false, shape, 0, stream, w, first_strip, strips,
                       static_cast<T*>(out));
}

}  // namespace

cudaError_t dequantize_strips(const PackedView& w, int first_strip, int strips, Act act, void* out,
                              cudaStream_t stream) {
  return act == Act::kF16 ? launch<__half>(w, first_strip, strips, out, stream)
                          : launch<__nv_bfloat16>(w, first_strip, strips, out, stream);
}

}  // namespace awq::cuda
