// y = x Wᵀ for many tokens on Hopper, computed as Yᵀ = W Xᵀ: W is the operand that wgmma takes from
// registers, where its codes become numbers, and tokens are the columns (as Machete does, Wilkinson et al.
// 2024).
//
// A block computes 128 rows x N tokens with three warpgroups. Three threads of the first copy: per stage the
// codes of 8 strips, their scales, and N rows of x (128-byte swizzle, zeros beyond the last token and
// column), all reported to the stage's `full` barrier; issuing them from one thread took longer than the
// copies. The other two own 64 rows each: read their codes, turn a block of 64 columns into fragments while
// the tensor cores work on the one before, and arrive at `empty` when a stage has been used up.
//
// Tiles are dealt out by gemm_plan.h. Of a tile cut along the columns, the block with the first columns is
// the owner: it adds the others' fp32 partial tiles, in order, so results never depend on timing. It comes to
// that tile last and the others come to it first, so it rarely waits; and it waits only for blocks of lower
// index, which have started before it.
//
//   stage: x [blocks][N tokens][128 bytes, swizzled] | codes [8 strips][blocks][512] | scales [groups][320]
//   (fragments and scales of other formats have other sizes: layout.h)
//
// A dense W of 16-bit rows goes through the same tiles, its stages x | W [blocks][128 rows][128 bytes, swizzled]. Whatever N is, a
// token's sums take the same products of 16 columns in the same order: the tiles of a fixed plan may be of any width.
#pragma once
#include <type_traits>
#include <utility>

#include "kernels/cuda/fragments.cuh"
#include "kernels/cuda/gemm_plan.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pipeline.cuh"
#include "kernels/cuda/tensor_map.h"
#include "kernels/cuda/wgmma.cuh"

namespace awq::cuda {

constexpr int kPanelStrips = kPanelRows / kStripRows, kConsumers = 256, kGemmThreads = 128 + kConsumers;

// N tokens per tile, Blocks of 64 columns per stage, Groups of columns per stage; no Groups: W is dense, else of format F.
template <class T_, int N_, int Blocks_, int Stages_, int Groups_, Format F_ = Format::kAffine4>
struct GemmShape {
  using T = T_;
  static constexpr Format F = F_;
  static constexpr int N = N_, Blocks = Blocks_, Stages = Stages_, Groups = Groups_;
  static constexpr bool kDense = Groups == 0;
  static constexpr int kXBlock = N * 128, kCodes = Blocks * kXBlock, kWBlock = kDense ? kPanelRows * 128 : kPanelStrips * fragment_bytes(F),
                       kScales = kCodes + Blocks * kWBlock;
  static constexpr int kFilled = kScales + Groups * scale_bytes(F);
  static constexpr int kStageBytes = (kFilled + 1023) / 1024 * 1024;
  static constexpr int kOutRow = kPanelRows * 2 + 16;  // of the output tile; 16 against bank conflicts
  static constexpr int kOut = Stages * kStageBytes, kBarriers = kOut + N * kOutRow;
  static constexpr int kSharedBytes = kBarriers + Stages * 16 + 1024;  // 1,024 to align the base
  static constexpr int kProducerRegisters = 40, kConsumerRegisters = 232;
  static_assert(kSharedBytes <= 227 * 1024);
};

template <class S>
struct GemmBlock {
  using T = typename S::T;
  const LinearArgs& args;
  const GemmPlan& plan;
  const CUtensorMap* codes_map;
  const CUtensorMap* x_map;
  unsigned char* shared;
  uint32_t base;
  int worker;  // this block's number in the plan; highest first in launch order

  __device__ uint32_t full(int slot) const { return base + S::kBarriers + slot * 16; }
  __device__ uint32_t empty(int slot) const { return full(slot) + 8; }

  // ---- copying: a thread each for codes, scales and x ----------------------------------------------

  // Calls copy(slot, m, n, unit) for every stage of this block when its slot is free.
  template <class Copy>
  __device__ void produce(const Copy& copy) const {
    int slot = 0, m, n;
    uint32_t phase = 1;  // nobody waits for the first round of slots
    for (GemmWalk walk(plan, worker); walk.next(plan, worker);) {
      plan.position(walk.tile, &m, &n);
      for (int unit = walk.begin; unit < walk.end; ++unit) {
        barrier_wait(empty(slot), phase);
        copy(slot, m, n, unit);
        if (++slot == S::Stages) slot = 0, phase ^= 1;
      }
    }
  }
  // This thread also announces the bytes of all three.
  __device__ void produce_codes() const {
    produce([&](int slot, int m, int, int unit) {
      barrier_expect(full(slot), S::kFilled);
      const uint32_t to = base + slot * S::kStageBytes + S::kCodes;
      if constexpr (S::kDense) {
#pragma unroll
        for (int i = 0; i < S::Blocks; ++i)
          tensor_copy(to + i * S::kWBlock, codes_map, (unit * S::Blocks + i) * kBlockCols, m * kPanelRows, full(slot));
      } else {
        tensor_copy(to, codes_map, unit * (S::Blocks * kCodesMapBlock), m * kPanelStrips, full(slot));
      }
    });
  }
  __device__ void produce_scales() const {
    constexpr int kBytes = scale_bytes(S::F);
    const PackedView& w = args.w;
    produce([&](int slot, int m, int, int unit) {
      const uint32_t to = base + slot * S::kStageBytes + S::kScales;
      const char* from =
          static_cast<const char*>(w.scales) + static_cast<int64_t>(m) * w.groups * kBytes;
      const int block = unit * S::Blocks;
      if constexpr (S::Groups == 2 * S::Blocks) {  // groups of 32
        bulk_copy(to, from + static_cast<int64_t>(block) * 2 * kBytes, S::Groups * kBytes,
                  full(slot));
      } else {
#pragma unroll
        for (int i = 0; i < S::Groups; ++i)
          bulk_copy(to + i * kBytes,
                    from + static_cast<int64_t>((block + i) / w.group_blocks) * kBytes, kBytes,
                    full(slot));
      }
    });
  }
  __device__ void produce_x() const {
    wait_for_predecessor();  // weights do not
    produce([&](int slot, int, int n, int unit) {
#pragma unroll
      for (int i = 0; i < S::Blocks; ++i)
        tensor_copy(base + slot * S::kStageBytes + i * S::kXBlock, x_map, (unit * S::Blocks + i) * kBlockCols,
                    n * S::N, full(slot));
    });
  }

  // ---- computing: two warpgroups, 64 rows each -------------------------------------------------------
  // Every lane arrives: one for its warp costs the same and is more than racecheck can follow.
  __device__ void release(int slot) const { barrier_arrive(empty(slot)); }
  // What a lane needs of a stage, as stored; of dense rows where they lie, since fragments are loaded as they are.
  struct Codes {
    BlockCodes<S::F> codes[S::Blocks];
    uint32_t scales[S::Groups], zeros[S::Groups];
  };
  struct Rows {
    uint32_t row;  // of W for this lane
    int lane;
  };
  using Stored = std::conditional_t<S::kDense, Rows, Codes>;
  __device__ Stored load_stored(uint32_t slot, int strip, int lane) const {
    if constexpr (S::kDense) {
      return {base + slot * S::kStageBytes + S::kCodes + (strip * kStripRows + lane % 16) * 128, lane};
    } else {
      return load_codes(slot, strip, lane);
    }
  }
  __device__ Codes load_codes(uint32_t slot, int strip, int lane) const {
    const unsigned char* stage = shared + slot * S::kStageBytes;
    Codes stored;
#pragma unroll
    for (int b = 0; b < S::Blocks; ++b)
#pragma unroll
      for (int p = 0; p < BlockCodes<S::F>::kParts; ++p)
        stored.codes[b].parts[p] = *reinterpret_cast<const uint4*>(
            stage + S::kCodes + (strip * S::Blocks + b) * fragment_bytes(S::F) + p * kFragmentBytes + lane * 16);
#pragma unroll
    for (int g = 0; g < S::Groups; ++g) {
      const unsigned char* scales = stage + S::kScales + g * scale_bytes(S::F);
      stored.scales[g] = *reinterpret_cast<const uint32_t*>(scales + strip * 32 + lane / 4 * 4);
      stored.zeros[g] = load_zeros<S::F>(scales + kZeroOffset + strip * zero_bytes(S::F), lane);
    }
    return stored;
  }
  // Operand A of the 4 * Blocks steps of 16 columns.
  using Fragments = uint32_t[16 * S::Blocks];
  __device__ void to_fragments(const Stored& stored, Fragments& a) const {
    if constexpr (S::kDense)
      load_fragments(stored, a);
    else
      convert(stored, a);
  }
  __device__ void load_fragments(const Rows& stored, Fragments& a) const {
#pragma unroll
    for (int i = 0; i < 4 * S::Blocks; ++i)  // a row's 16-byte piece p lies at place p ^ row % 8
      load_matrix_x4(a + 4 * i, stored.row + i / 4 * S::kWBlock + ((i % 4 * 2 + stored.lane / 16) ^ stored.lane % 8) * 16);
  }
  __device__ void convert(const Codes& stored, Fragments& a) const {
    constexpr int kSteps = 4 * S::Blocks / S::Groups;  // in a group
    GroupParams<T, S::F> params;
    GroupScales<T> scales;
#pragma unroll
    for (int i = 0; i < 4 * S::Blocks; ++i) {
      if (i % kSteps == 0) params.set(stored.zeros[i / kSteps]), scales.set(stored.scales[i / kSteps]);
      stored.codes[i / 4].unscaled(params, i % 4, a + 4 * i);
#pragma unroll
      for (int j = 0; j < 4; ++j) a[4 * i + j] = scales.scaled(a[4 * i + j], j % 2 != 0);
    }
  }

  // Where the consumers are in the ring of stages.
  struct Ring {
    uint32_t slot = 0, phase = 0;
    __device__ void advance() {
      if (++slot == S::Stages) slot = 0, phase ^= 1;
    }
  };

  // Multiplies the next `stages` stages of the ring into acc.
  __device__ void multiply(Ring& ring, int stages, int strip, int lane, float (&acc)[S::N / 2]) const {
    Fragments even, odd;
    // Starts the products of a stage and prepares the next one behind them.
    const auto step = [&](int stage, const Fragments& use, Fragments& next) {
      const uint32_t slot = ring.slot, before = slot == 0 ? S::Stages - 1 : slot - 1;
      const bool more = stage + 1 < stages;
      // The reduction puts it into a uniform register, where the products want it, without changing it.
      const uint32_t x = __reduce_max_sync(~0u, wgmma_descriptor(base + slot * S::kStageBytes));
      wgmma_fence();
#pragma unroll
      for (int i = 0; i < 4 * S::Blocks; ++i)
        Wgmma<T, S::N>::run(acc, use + 4 * i, x + i / 4 * (S::kXBlock / 16) + i % 4 * 2, stage > 0 || i > 0);
      wgmma_commit();
      ring.advance();
      Stored stored = {};
      if (more) {
        barrier_wait(full(ring.slot), ring.phase);
        stored = load_stored(ring.slot, strip, lane);
      }
      wgmma_wait<1>();  // the stage before is done, and with it the fragments in `next`
      if (stage > 0) release(before);
      if (more) to_fragments(stored, next);
    };
    barrier_wait(full(ring.slot), ring.phase);
    to_fragments(load_stored(ring.slot, strip, lane), even);
    for (int stage = 0; stage < stages; stage += 2) {
      step(stage, even, odd);
      if (stage + 1 < stages) step(stage + 1, odd, even);
    }
    wgmma_wait<0>();
    release(ring.slot == 0 ? S::Stages - 1 : ring.slot - 1);
  }

  // Sums of a tile lie elsewhere as the threads hold them: [4 sums of a thread][thread]; the pointers are a
  // thread's own.
  static __device__ void put(float4* to, const float (&acc)[S::N / 2]) {
#pragma unroll
    for (int i = 0; i < S::N / 8; ++i)
      to[i * kConsumers] = make_float4(acc[4 * i], acc[4 * i + 1], acc[4 * i + 2], acc[4 * i + 3]);
  }
  static __device__ void add(float (&acc)[S::N / 2], const float4* from) {
#pragma unroll
    for (int i = 0; i < S::N / 8; ++i) {
      if (i % 8 == 0) __syncwarp();  // keeps all loads from being in flight at once: registers are few
      const float4 v = from[i * kConsumers];
      acc[4 * i] += v.x, acc[4 * i + 1] += v.y, acc[4 * i + 2] += v.z, acc[4 * i + 3] += v.w;
    }
  }
  __device__ float4* partial(int c, int thread) const {
    return reinterpret_cast<float4*>(args.split.partials) +
           static_cast<int64_t>(c) * (S::N * kPanelRows / 4) + thread;
  }
  __device__ uint32_t* flag(int c) const { return args.split.flags + c; }
  __device__ void give(const float (&acc)[S::N / 2], int thread) const {
    put(partial(worker, thread), acc);
    named_sync(1, kConsumers);
    if (thread == 0) flag_raise(flag(worker));  // a release: of what the barrier gathered too
  }
  // Adds what the next workers have of the tile, in their order; a thread for each waits for it.
  __device__ void take(float (&acc)[S::N / 2], int tile, int thread) const {
    const int tile_end = (tile - plan.whole * plan.workers + 1) * plan.units;
    int end = worker + 2;  // workers (worker, end) contribute
#pragma unroll 1
    while (plan.first(end) < tile_end) ++end;
#pragma unroll 1
    for (int c = worker + 1 + thread; c < end; c += kConsumers)
      while (!flag_raised(flag(c))) __nanosleep(20);
    named_sync(1, kConsumers);
#pragma unroll 1
    for (int c = worker + 1; c < end; ++c) add(acc, partial(c, thread));
    named_sync(1, kConsumers);
#pragma unroll 1
    for (int c = worker + 1 + thread; c < end; c += kConsumers) *flag(c) = 0;
  }

  // Sums as they are: 32 bytes of neighbouring rows leave together.
  __device__ void store_f32(const float (&acc)[S::N / 2], int m, int n, int strip, int lane) const {
    const int row = m * kPanelRows + strip * kStripRows + lane / 4;
#pragma unroll
    for (int j = 0; j < S::N / 8; ++j) {
      __syncwarp();  // keeps addresses from being prepared far ahead: registers are few
      const int token = n * S::N + j * 8 + lane % 4 * 2;
      float* y = static_cast<float*>(args.y) + token * args.ldy + row;
#pragma unroll
      for (int e = 0; e < 4; ++e)
        if (token + e % 2 < args.tokens && row + e / 2 * 8 < args.w.out) y[e % 2 * args.ldy + e / 2 * 8] = acc[4 * j + e] * args.w.out_scale;
    }
  }

  // Through shared memory, so that 16 bytes of neighbouring rows leave together: y is [tokens, out], or [tokens, out / 2].
  __device__ void store(const float (&acc)[S::N / 2], int m, int n, int strip, int lane, int thread) const {
    if (args.output == Output::kF32) return store_f32(acc, m, n, strip, lane);
    const float scale = args.w.out_scale;
    const bool gate = args.output == Output::kGated;
    named_sync(1, kConsumers);  // the last tile has left
    if (gate) {
      const uint32_t to = base + S::kOut + lane % 16 * S::kOutRow + strip * 16;
#pragma unroll
      for (int j = 0; j < S::N / 8; j += 2) {
        uint32_t r[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const float* sum = acc + 4 * (j + i);
          r[i] = pack_pair<T>(gated(sum[0] * scale, sum[2] * scale), gated(sum[1] * scale, sum[3] * scale));
        }
        asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1,%2};" ::"r"(to + j * 8 * S::kOutRow),
                     "r"(r[0]), "r"(r[1])
                     : "memory");
      }
    } else {
      const uint32_t to = base + S::kOut + (lane / 16 * 8 + lane % 8) * S::kOutRow + strip * 32 + lane / 8 % 2 * 16;
#pragma unroll
      for (int j = 0; j < S::N / 8; j += 2) {
        uint32_t r[4];
#pragma unroll
        for (int i = 0; i < 4; ++i)
          r[i] = pack_pair<T>(acc[4 * j + 2 * i] * scale, acc[4 * j + 2 * i + 1] * scale);
        asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(
                         to + j * 8 * S::kOutRow),
                     "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
                     : "memory");
      }
    }
    named_sync(1, kConsumers);
    const int chunks = gate ? 8 : 16, rows = gate ? kPanelRows / 2 : kPanelRows, out = gate ? args.w.out / 2 : args.w.out;
    const int row = m * rows + thread % chunks * 8;
    const bool whole_chunks = out % 8 == 0 && args.ldy % 8 == 0;
#pragma unroll 4
    for (int t = thread / chunks; t < S::N; t += kConsumers / chunks) {
      const int token = n * S::N + t;
      if (token >= args.tokens) break;
      const unsigned char* from = shared + S::kOut + t * S::kOutRow + thread % chunks * 16;
      T* y = static_cast<T*>(args.y) + token * args.ldy + row;
      if (whole_chunks && row < out) {
        *reinterpret_cast<uint4*>(y) = *reinterpret_cast<const uint4*>(from);
      } else {
        for (int e = 0; e < 8 && row + e < out; ++e) y[e] = reinterpret_cast<const T*>(from)[e];
      }
    }
  }

  __device__ void consume(int thread) const {
    const int strip = thread / 32, lane = thread % 32;
    Ring ring;
    wait_for_predecessor();
    for (GemmWalk walk(plan, worker); walk.next(plan, worker);) {
      float acc[S::N / 2];
      multiply(ring, walk.end - walk.begin, strip, lane, acc);
      if (walk.begin > 0) {
        give(acc, thread);
        continue;
      }
      if (walk.end < plan.units) take(acc, walk.tile, thread);
      int m, n;
      plan.position(walk.tile, &m, &n);
      store(acc, m, n, strip, lane, thread);
    }
  }
};

template <class S>
__global__ void __launch_bounds__(kGemmThreads, 1)
    gemm_sm90_kernel(const __grid_constant__ LinearArgs args, const __grid_constant__ GemmPlan plan,
                     const __grid_constant__ CUtensorMap codes_map,
                     const __grid_constant__ CUtensorMap x_map) {
#if __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ unsigned char raw[];
  const uint32_t base = (shared_address(raw) + 1023) & ~1023u;
  const GemmBlock<S> block{args,
                           plan,
                           &codes_map,
                           &x_map,
                           raw + (base - shared_address(raw)),
                           base,
                           plan.workers - 1 - static_cast<int>(blockIdx.x)};
  if (threadIdx.x == 0) {
    for (int s = 0; s < S::Stages; ++s) {
      barrier_init(block.full(s), 1);
      barrier_init(block.empty(s), kConsumers);
    }
    barriers_ready();
  }
  __syncthreads();

  if (threadIdx.x < 128) {
    give_registers<S::kProducerRegisters>();
    allow_successor();
    if (threadIdx.x == 0) block.produce_codes();
    if constexpr (!S::kDense)
      if (threadIdx.x == 32) block.produce_scales();
    if (threadIdx.x == 64) block.produce_x();
  } else {
    take_registers<S::kConsumerRegisters>();
    block.consume(threadIdx.x - 128);
  }
#endif
}

template <class T, Format F, int Config, int Groups>
cudaError_t launch_gemm_config(const LinearArgs& args, const GemmPlan& plan, const CUtensorMap& codes_map,
                               const CUtensorMap& x_map, cudaStream_t stream) {
  constexpr GemmConfig c = gemm_configs(F)[Config];
  using S = GemmShape<T, c.tokens, c.blocks, c.stages, Groups, F>;
  return launch_kernel(gemm_sm90_kernel<S>, args.overlap, {plan.workers, kGemmThreads, 1}, S::kSharedBytes,
                       stream, args, plan, codes_map, x_map);
}

// From run-time numbers to a kernel: the one place for an activation type and a format.
template <class T, Format F, int... Configs>
cudaError_t dispatch_gemm(int config, const LinearArgs& args, const GemmPlan& plan,
                          const CUtensorMap& codes_map, const CUtensorMap& x_map, cudaStream_t stream,
                          std::integer_sequence<int, Configs...>) {
  cudaError_t error = cudaErrorInvalidValue;
  const auto run = [&]<int Config>() {
    constexpr int kBlocks = gemm_configs(F)[Config].blocks;
    const int groups = args.w.groups_in(kBlocks);
    if (groups == 1) return launch_gemm_config<T, F, Config, 1>(args, plan, codes_map, x_map, stream);
    if (groups == 2) return launch_gemm_config<T, F, Config, 2>(args, plan, codes_map, x_map, stream);
    if constexpr (kBlocks == 2) return launch_gemm_config<T, F, Config, 4>(args, plan, codes_map, x_map, stream);
    return cudaErrorInvalidValue;
  };
  ((config == Configs ? (void)(error = run.template operator()<Configs>()) : (void)0), ...);
  return error;
}
template <class T, Format F>
cudaError_t dispatch_gemm(int config, const LinearArgs& args, const GemmPlan& plan,
                          const CUtensorMap& codes_map, const CUtensorMap& x_map, cudaStream_t stream) {
  return dispatch_gemm<T, F>(config, args, plan, codes_map, x_map, stream, std::make_integer_sequence<int, kGemmCount>());
}

}  // namespace awq::cuda
