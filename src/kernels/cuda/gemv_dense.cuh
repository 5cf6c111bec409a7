// y = x Wᵀ for 1 to 8 tokens and a dense 16-bit W [out, in], as gemv.cuh does it for packed weights: W is operand A of the tensor
// cores, each warp has a ring of units of 16 rows x 128 columns in flight, sums are fp32. A block walks through a few strips of
// 16 rows with one ring, so that reading does not pause between them; a strip's sums are added up by one warp while the others
// go on. Compute capability 8.0 and later.
//
//   shared memory: rings of the warps [warps][depth] of units (weights | x) | 16 zeros | sums [2][warps][tokens][16 rows]
#pragma once
#include "kernels/cuda/gemv.cuh"

namespace awq::cuda {

template <int Tokens>
struct DenseGemv {
  static constexpr int kWarps = 8, kDepth = 3;
  static constexpr int kRow = kUnitCols * 2 + 16;  // 16 against bank conflicts
  static constexpr int kCodeBytes = kStripRows * kRow, kStageBytes = kCodeBytes + Tokens * kXRowBytes;
  static constexpr int kZeroRow = kWarps * kDepth * kStageBytes, kSums = kZeroRow + 16;
  static constexpr int kSumFloats = kWarps * Tokens * kStripRows;
  static constexpr int kSharedBytes = kSums + 2 * kSumFloats * 4;
  static_assert(Tokens <= 8);
};

// Rows of gates and ups stand apart in W; they meet in a strip as they do in a packed weight.
__device__ __forceinline__ void fetch_rows(const LinearArgs& args, uint32_t stage, int strip, int unit, int lane) {
  const int col = unit * kUnitCols + lane % 16 * 8, half = args.w.out / 2;
  const bool inside = col < args.w.in, gate = args.output == Output::kGated;
  const char* w = static_cast<const char*>(args.w.codes);
#pragma unroll
  for (int i = 0; i < kStripRows / 2; ++i) {
    const int r = 2 * i + lane / 16;
    const int row = min(gate ? strip * 8 + r % 8 + (r < 8 ? 0 : half) : strip * kStripRows + r, args.w.out - 1);
    copy16_async(stage + r * DenseGemv<1>::kRow + lane % 16 * 16,
                 inside ? w + (static_cast<int64_t>(row) * args.w.in + col) * 2 : w, inside ? 16 : 0);
  }
}

// Strips blockIdx.x * strips_each and the following.
template <class T, int Tokens>
__global__ void __launch_bounds__(DenseGemv<Tokens>::kWarps * 32) gemv_dense_kernel(const __grid_constant__ LinearArgs args, int strips_each) {
  using G = DenseGemv<Tokens>;
  constexpr int kWarps = G::kWarps, kDepth = G::kDepth;
  extern __shared__ __align__(128) unsigned char shared[];
  __shared__ TokenScales<Tokens> scales;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int units = args.w.blocks / kUnitBlocks, strips = (args.w.out + kStripRows - 1) / kStripRows;
  const int begin = blockIdx.x * strips_each, end = min(strips, begin + strips_each);
  const uint32_t base = shared_address(shared), ring = base + warp * kDepth * G::kStageBytes;
  if (threadIdx.x < 4) reinterpret_cast<uint32_t*>(shared + G::kZeroRow)[threadIdx.x] = 0;

  // This warp's units: of the block's strips in turn every kWarps-th.
  struct Walk {
    int strip, unit;
    __device__ void advance(int first, int units) {
      if ((unit += kWarps) >= units) unit = first, ++strip;
    }
  };
  const Walk start{warp < units ? begin : end, warp};
  Walk ahead = start, ahead_x = start;
#pragma unroll
  for (int d = 0; d < kDepth; ++d, ahead.advance(warp, units)) {
    if (ahead.strip < end) fetch_rows(args, ring + d * G::kStageBytes, ahead.strip, ahead.unit, lane);
    commit_copies();
  }
  allow_successor();
  wait_for_predecessor();
#pragma unroll
  for (int d = 0; d < kDepth; ++d, ahead_x.advance(warp, units)) {
    if (ahead_x.strip < end) fetch_x<G, T, Tokens>(args, ring + d * G::kStageBytes, ahead_x.unit, lane);
    commit_copies();
  }
  scales.fill(args, warp, kWarps, lane);
  __syncthreads();

  // Lane l reads row l % 8 of the 8 x 8 piece l / 8 of x: token l % 8, columns 8 (l / 8) of 32.
  const bool real = lane % 8 < Tokens;
  const uint32_t x_lane = G::kCodeBytes + lane % 8 * kXRowBytes + lane / 8 * 16, w_lane = lane % 16 * G::kRow + lane / 16 * 16;
  int slot = 0, turn = 0;
  for (int strip = begin; strip < end; ++strip, ++turn) {
    float sum[2][4] = {};  // of even and odd steps: two chains of products
    for (int unit = warp; unit < units; unit += kWarps) {
      const uint32_t stage = ring + slot * G::kStageBytes;
      wait_copies<kDepth - 1>();
      __syncwarp();
      uint32_t x[4];
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        uint32_t a[4];
        if (i % 2 == 0) load_matrix_x4(x, real ? stage + x_lane + i * 32 : base + G::kZeroRow);
        load_matrix_x4(a, stage + w_lane + i * 32);
        mma_16x8x16<T>(sum[i % 2], a, x[i % 2 * 2], x[i % 2 * 2 + 1]);
      }
      __syncwarp();
      if (ahead.strip < end) {
        fetch_rows(args, stage, ahead.strip, ahead.unit, lane);
        fetch_x<G, T, Tokens>(args, stage, ahead.unit, lane);
      }
      ahead.advance(warp, units);
      commit_copies();
      slot = slot + 1 == kDepth ? 0 : slot + 1;
    }
    // Two buffers: one is written again only after the barrier that its reader has passed too.
    float* sums = reinterpret_cast<float*>(shared + G::kSums) + turn % 2 * G::kSumFloats;
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int token = lane % 4 * 2 + e % 2, row = lane / 4 + e / 2 * 8;
      if (token < Tokens) sums[(warp * Tokens + token) * kStripRows + row] = sum[0][e] + sum[1][e];
    }
    __syncthreads();
    if (warp != turn % kWarps) continue;
    const auto total = [&](int i) {
      float all = 0;
#pragma unroll
      for (int v = 0; v < kWarps; ++v) all += sums[v * Tokens * kStripRows + i];
      return all;
    };
    finish_outputs<T, Tokens, kStripRows, 32>(args, scales, strip, lane, total,
                                              [&](int, int token, int row) { return residual_at(args, token, row); });
  }
  wait_copies<0>();
}

template <class T, int Tokens>
cudaError_t launch_gemv_dense_tokens(const LinearArgs& args, int processors, cudaStream_t stream) {
  // Enough blocks for the device to deal out evenly, and not more: each fills and drains its ring once.
  const int strips = (args.w.out + kStripRows - 1) / kStripRows, each = strips < 16 * processors ? (strips + 8 * processors - 1) / (8 * processors) : 4;
  return launch_kernel(gemv_dense_kernel<T, Tokens>, args.overlap, {(strips + each - 1) / each, DenseGemv<Tokens>::kWarps * 32, 1},
                       DenseGemv<Tokens>::kSharedBytes, stream, args, each);
}

template <class T>
cudaError_t dispatch_gemv_dense(const LinearArgs& args, int processors, cudaStream_t stream) {
  return args.tokens == 1 ? launch_gemv_dense_tokens<T, 1>(args, processors, stream)
                          : launch_gemv_dense_tokens<T, 8>(args, processors, stream);
}

}  // namespace awq::cuda
