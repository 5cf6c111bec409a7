// y = x Wᵀ for 1 to 16 tokens: limited by reading W once. Any GPU from compute capability 8.0.
//
// A block of kWarps warps owns 16 R rows of W; its warps take turns at units of 128 columns and add up their
// sums at the end, so that no block waits for another. Each warp runs its own ring of `kDepth` units in
// shared memory, filled by asynchronous copies: no barrier stands in the main loop, and kDepth units of every
// resident warp are in flight at any time, which is what hides the latency of device memory. W is operand A
// of the tensor cores and tokens are the columns of operand B; with one token seven of eight columns are
// wasted, which costs nothing beside the reads. Sums are fp32; a group's sum is formed with the exact
// numbers code - zero (of NF4 the table's, rounded) and then multiplied by its scale.
//
//   one unit in the ring:  codes R x 2 blocks x 512 B (8-bit ones 1,024) | x: Tokens rows of 256 B, 16 B apart |
//   scales, zeros per group
#pragma once
#include <utility>

#include "kernels/cuda/fragments.cuh"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/outputs.cuh"

namespace awq::cuda {

constexpr int kUnitBlocks = 2, kUnitCols = kUnitBlocks * kBlockCols;
constexpr int kXRowBytes = kUnitCols * 2 + 16;  // 16 bytes of padding: ldmatrix meets no bank twice

// R strips of format F per block, Tokens a power of two up to 16, Groups per unit: 1, 2 or 4. With Split > 1 (Hopper) the
// blocks of a cluster share rows and take turns at the units too: more blocks for small matrices without more
// reads of x.
template <class T, Format F, int R, int kWarps, int kDepth, int Tokens, int Groups, int Split>
struct Gemv {
  static constexpr Format kFormat = F;
  static constexpr int kZeroBytes = zero_bytes(F), kBlockBytes = fragment_bytes(F), kParts = kBlockBytes / kFragmentBytes;
  static constexpr int kCodeBytes = R * kUnitBlocks * kBlockBytes;
  static constexpr int kXBytes = Tokens * kXRowBytes;
  static constexpr int kGroupBytes = (R * (32 + kZeroBytes) + 15) / 16 * 16;  // R x 32 of scales, then zeros
  static constexpr int kStageBytes = kCodeBytes + kXBytes + Groups * kGroupBytes;
  static constexpr int kZeroRow =
      kWarps * kDepth * kStageBytes;  // 16 bytes of zeros: the tokens beyond the last
  static constexpr int kRingBytes = kZeroRow + 16;
  static constexpr int kSumBytes = kWarps * Tokens * R * kStripRows * 4;
  static constexpr int kSharedBytes = kRingBytes > kSumBytes ? kRingBytes : kSumBytes;
  static constexpr int kTiles = (Tokens + 7) / 8;  // of 8 tokens
  // What registers have to leave room for, as shared memory does; for affine 4-bit codes the compiler's own choice is good.
  static constexpr int kFitting = 224 * 1024 / kSharedBytes, kUseful = kWarps == 8 ? 3 : 2;
  static constexpr int kResidentBlocks = F == Format::kAffine4 ? 0 : kFitting < 1 ? 1 : kFitting < kUseful ? kFitting : kUseful;
};

template <class G, int R, int Groups>
__device__ __forceinline__ void fetch_weights(const PackedView& w, uint32_t stage, int strip, int unit,
                                              int lane) {
  const char* codes = static_cast<const char*>(w.codes) +
                      (static_cast<int64_t>(strip) * w.blocks + unit * kUnitBlocks) * G::kBlockBytes +
                      lane * 16;
#pragma unroll
  for (int r = 0; r < R; ++r)
#pragma unroll
    for (int b = 0; b < kUnitBlocks * G::kParts; ++b)
      copy16_async(stage + (r * kUnitBlocks * G::kParts + b) * kFragmentBytes + lane * 16,
                   codes + (static_cast<int64_t>(r) * w.blocks * G::kParts + b) * kFragmentBytes);
  const int panel = strip / 8, in_panel = strip % 8;
#pragma unroll
  for (int g = 0; g < Groups; ++g) {
    const int block = unit * kUnitBlocks + g * kUnitBlocks / Groups;
    const int group = Groups == 4 ? unit * 4 + g : block / w.group_blocks;
    const char* from =
        static_cast<const char*>(w.scales) + (static_cast<int64_t>(panel) * w.groups + group) * scale_bytes(G::kFormat);
    const uint32_t to = stage + G::kCodeBytes + G::kXBytes + g * G::kGroupBytes;
    if (lane < 2 * R) copy16_async(to + lane * 16, from + in_panel * 32 + lane * 16);
    if constexpr (G::kZeroBytes > 0) {
      if (lane >= 16 && lane < 16 + R)
        copy_async<G::kZeroBytes>(to + R * 32 + (lane - 16) * G::kZeroBytes, from + kZeroOffset + (in_panel + lane - 16) * G::kZeroBytes);
    }
  }
}

template <class G, class T, int Tokens>
__device__ __forceinline__ void fetch_x(const LinearArgs& args, uint32_t stage, int unit, int lane) {
  constexpr int kChunks = kUnitCols / 8;  // of 16 bytes
#pragma unroll
  for (int i = 0; i < (Tokens * kChunks + 31) / 32; ++i) {
    const int index = i * 32 + lane, token = index / kChunks, col = unit * kUnitCols + index % kChunks * 8;
    if (Tokens * kChunks % 32 != 0 && index >= Tokens * kChunks) break;
    const bool inside = token < args.tokens && col < args.w.in;
    const T* from =
        static_cast<const T*>(args.x) + (inside ? token * static_cast<int64_t>(args.w.in) + col : 0);
    copy16_async(stage + G::kCodeBytes + token * kXRowBytes + index % kChunks * 16, from, inside ? 16 : 0);
  }
}

template <class T, Format F, int R, int kWarps, int kDepth, int Tokens, int Groups, int Split>
__global__ void __launch_bounds__(kWarps * 32, Gemv<T, F, R, kWarps, kDepth, Tokens, Groups, Split>::kResidentBlocks)
    gemv_kernel(const __grid_constant__ LinearArgs args) {
  using G = Gemv<T, F, R, kWarps, kDepth, Tokens, Groups, Split>;
  extern __shared__ __align__(128) unsigned char shared[];
  __shared__ TokenScales<Tokens> scales;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int strip = blockIdx.x / Split * R, units = args.w.blocks / kUnitBlocks;
  const int rank = blockIdx.x % Split, first = rank * kWarps + warp;
  constexpr int kStep = kWarps * Split;  // units between a warp's turns
  const uint32_t base = shared_address(shared), ring = base + warp * kDepth * G::kStageBytes;
  if (threadIdx.x < 4) reinterpret_cast<uint32_t*>(shared + G::kZeroRow)[threadIdx.x] = 0;
  __syncthreads();

#pragma unroll
  for (int d = 0; d < kDepth; ++d) {
    if (const int unit = first + d * kStep; unit < units)
      fetch_weights<G, R, Groups>(args.w, ring + d * G::kStageBytes, strip, unit, lane);
    commit_copies();
  }
  allow_successor();
  wait_for_predecessor();
#pragma unroll
  for (int d = 0; d < kDepth; ++d) {
    if (const int unit = first + d * kStep; unit < units)
      fetch_x<G, T, Tokens>(args, ring + d * G::kStageBytes, unit, lane);
    commit_copies();
  }

  scales.fill(args, warp, kWarps, lane);
  constexpr int kRows = R * kStripRows, kOutputStep = kStep * 32, kOutputs = (Tokens * kRows + kOutputStep - 1) / kOutputStep;
  const int first_output = rank * kWarps * 32 + threadIdx.x;
  float before[kOutputs];
  if (args.output == Output::kResidual)
#pragma unroll
    for (int n = 0; n < kOutputs; ++n)
      if (const int i = first_output + n * kOutputStep, row = strip * kStripRows + i % kRows; i / kRows < args.tokens && row < args.w.out)
        before[n] = residual_at(args, i / kRows, row);

  float sum[R][G::kTiles][4] = {}, part[R][G::kTiles][4] = {};
  // Lane l reads row l % 8 of the 8 x 8 piece l / 8 of x: token l % 8, columns 8 (l / 8) of 32.
  const bool real = Tokens >= 8 || lane % 8 < Tokens;
  const uint32_t x_row = G::kCodeBytes + lane % 8 * kXRowBytes + lane / 8 * 16;
  int slot = 0;
  for (int unit = first; unit < units; unit += kStep) {
    const uint32_t stage = ring + slot * G::kStageBytes;
    wait_copies<kDepth - 1>();
    __syncwarp();
    const unsigned char* bytes = shared + (stage - base);
    GroupParams<T, F> params[R];
    float2 scale[R];
#pragma unroll
    for (int b = 0; b < kUnitBlocks; ++b) {
      uint32_t x[G::kTiles][8];
#pragma unroll
      for (int n = 0; n < G::kTiles; ++n)
#pragma unroll
        for (int i = 0; i < 2; ++i)
          load_matrix_x4(x[n] + 4 * i,
                         real ? stage + x_row + n * 8 * kXRowBytes + b * 128 + i * 64 : base + G::kZeroRow);
      BlockCodes<F> codes[R];
#pragma unroll
      for (int r = 0; r < R; ++r)
#pragma unroll
        for (int p = 0; p < G::kParts; ++p)
          codes[r].parts[p] =
              *reinterpret_cast<const uint4*>(bytes + ((r * kUnitBlocks + b) * G::kParts + p) * kFragmentBytes + lane * 16);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        constexpr int kSteps = 8 / Groups;  // of 16 columns, in a group
        const int step = b * 4 + i, group = step / kSteps;
        if (step % kSteps == 0) {
#pragma unroll
          for (int r = 0; r < R; ++r) {
            const unsigned char* g = bytes + G::kCodeBytes + G::kXBytes + group * G::kGroupBytes;
            const uint32_t s = *reinterpret_cast<const uint32_t*>(g + r * 32 + lane / 4 * 4);
            params[r].set(load_zeros<F>(g + R * 32 + r * G::kZeroBytes, lane));
            scale[r] = __half22float2(as_half2(s));
          }
        }
#pragma unroll
        for (int r = 0; r < R; ++r) {
          uint32_t a[4];
          codes[r].unscaled(params[r], i, a);
#pragma unroll
          for (int n = 0; n < G::kTiles; ++n) mma_16x8x16<T>(part[r][n], a, x[n][2 * i], x[n][2 * i + 1]);
        }
        if (step % kSteps == kSteps - 1) {
#pragma unroll
          for (int r = 0; r < R; ++r)
#pragma unroll
            for (int n = 0; n < G::kTiles; ++n)
#pragma unroll
              for (int e = 0; e < 4; ++e) {
                sum[r][n][e] = __fmaf_rn(part[r][n][e], e < 2 ? scale[r].x : scale[r].y, sum[r][n][e]);
                part[r][n][e] = 0;
              }
        }
      }
    }
    __syncwarp();
    if (const int next = unit + kDepth * kStep; next < units) {
      fetch_weights<G, R, Groups>(args.w, stage, strip, next, lane);
      fetch_x<G, T, Tokens>(args, stage, next, lane);
    }
    commit_copies();
    slot = slot + 1 == kDepth ? 0 : slot + 1;
  }

  // Sums of the warps: [warp][token][row].
  wait_copies<0>();
  __syncthreads();
  float* sums = reinterpret_cast<float*>(shared);
#pragma unroll
  for (int r = 0; r < R; ++r)
#pragma unroll
    for (int n = 0; n < G::kTiles; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int token = n * 8 + lane % 4 * 2 + e % 2, row = r * kStripRows + lane / 4 + e / 2 * 8;
        if (token < Tokens) sums[(warp * Tokens + token) * kRows + row] = sum[r][n][e];
      }
  if constexpr (Split > 1)
    cluster_sync();
  else
    __syncthreads();
  // Added in the order of warps and blocks; each block of a cluster finishes its part of the outputs.
  const auto total = [&](int i) {
    float all = 0;
#pragma unroll
    for (int b = 0; b < Split; ++b)
#pragma unroll
      for (int v = 0; v < kWarps; ++v)
        all += Split == 1 ? sums[v * Tokens * kRows + i] : load_cluster(base + (v * Tokens * kRows + i) * 4, b);
    return all;
  };
  finish_outputs<T, Tokens, kRows, kOutputStep>(args, scales, strip, first_output, total, [&](int n, int, int) { return before[n]; });
  if constexpr (Split > 1) cluster_sync();  // no block ends while another reads its sums
}

template <class T, Format F, int Config, int Groups>
using GemvOf = Gemv<T, F, gemv_configs(F)[Config].strips, gemv_configs(F)[Config].warps, gemv_configs(F)[Config].depth,
                    gemv_configs(F)[Config].tokens, Groups, gemv_configs(F)[Config].split>;

template <class T, Format F, int Config, int Groups>
cudaError_t launch_gemv_config(const LinearArgs& args, cudaStream_t stream) {
  constexpr GemvConfig c = gemv_configs(F)[Config];
  return launch_kernel(gemv_kernel<T, F, c.strips, c.warps, c.depth, c.tokens, Groups, c.split>, args.overlap,
                       {args.w.strips() / c.strips * c.split, c.warps * 32, c.split},
                       GemvOf<T, F, Config, Groups>::kSharedBytes, stream, args);
}

// From run-time numbers to a kernel: the one place for an activation type and a format.
template <class T, Format F, int... Configs>
cudaError_t dispatch_gemv(int config, const LinearArgs& args, cudaStream_t stream,
                          std::integer_sequence<int, Configs...>) {
  const int groups = args.w.groups_in(kUnitBlocks);
  cudaError_t error = cudaErrorInvalidValue;
  ((config == Configs ? (void)(error = groups == 1   ? launch_gemv_config<T, F, Configs, 1>(args, stream)
                                       : groups == 2 ? launch_gemv_config<T, F, Configs, 2>(args, stream)
                                                     : launch_gemv_config<T, F, Configs, 4>(args, stream))
                      : (void)0),
   ...);
  return error;
}
template <class T, Format F>
cudaError_t dispatch_gemv(int config, const LinearArgs& args, cudaStream_t stream) {
  return dispatch_gemv<T, F>(config, args, stream, std::make_integer_sequence<int, gemv_count(F)>());
}

}  // namespace awq::cuda
