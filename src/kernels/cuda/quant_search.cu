// range_search: for every row and group the scale and zero point that minimise e B eᵀ, the same candidates in the same order as
// kernels/quant_search_impl.h.
//
// A block keeps B, the group's block of the Gram matrix, in shared memory (groups wider than kTile: one tile of kTile columns after the
// other), and its warps search kRows rows each, at their own pace. For a candidate a warp writes the errors of its rows, transposed,
// to shared memory
//
//   E [kTile columns][kRows rows]
//
// multiplies T = E B with kTile x kRows sums in registers (a lane has 4 rows and 16 columns), and folds T with E to a loss per row. Only
// the lower triangle of B is multiplied, in squares of kSquare columns; what lies below the diagonal squares counts twice.
//
// Between products a lane works for row lane % kRows on the columns of its parity (lane / kRows).
#include <algorithm>

#include "kernels/cuda/quant_rounding.cuh"

namespace awq::cuda {
namespace {

constexpr int kTile = 128, kRows = 16, kSquare = 32, kSquares = kTile / kSquare, kOwn = kTile / 2;

struct Search {
  const float* w;
  const float* gram;
  RoundingView q;
  bool full;
};

// acc[m][i][j]: columns 32 m + 4 (lane % 8) + j, rows 4 (lane / 8) + i. Triangle: sums of T for the loss, with the squares below the
// diagonal doubled; else all of T.
template <bool Triangle>
__device__ __forceinline__ void multiply(const float* b, const float* e, float (&acc)[kSquares][4][4]) {
  const int lane = threadIdx.x % 32, column = lane % 8 * 4, row = lane / 8 * 4;
#pragma unroll
  for (int m = 0; m < kSquares; ++m)
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) acc[m][i][j] = 0;
#pragma unroll
  for (int square = 0; square < kSquares; ++square) {
    if (Triangle) {
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) acc[square][i][j] *= 2;
    }
#pragma unroll 4
    for (int k = square * kSquare; k < (square + 1) * kSquare; ++k) {
      const float4 x = *reinterpret_cast<const float4*>(e + k * kRows + row);
      const float xs[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
      for (int m = Triangle ? square : 0; m < kSquares; ++m) {
        const float4 y = *reinterpret_cast<const float4*>(b + k * kTile + m * kSquare + column);
        const float ys[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
          for (int j = 0; j < 4; ++j) acc[m][i][j] = __fmaf_rn(xs[i], ys[j], acc[m][i][j]);
      }
    }
  }
}

// Σ over columns of T times `other` [kTile][kRows], for the row of this lane.
__device__ __forceinline__ float fold(const float (&acc)[kSquares][4][4], const float* other) {
  const int lane = threadIdx.x % 32, column = lane % 8 * 4, row = lane / 8 * 4;
  float sum[4] = {};
#pragma unroll
  for (int m = 0; m < kSquares; ++m)
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float4 x = *reinterpret_cast<const float4*>(other + (m * kSquare + column + j) * kRows + row);
      sum[0] = __fmaf_rn(acc[m][0][j], x.x, sum[0]);
      sum[1] = __fmaf_rn(acc[m][1][j], x.y, sum[1]);
      sum[2] = __fmaf_rn(acc[m][2][j], x.z, sum[2]);
      sum[3] = __fmaf_rn(acc[m][3][j], x.w, sum[3]);
    }
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int step = 1; step < 8; step *= 2) sum[i] += __shfl_xor_sync(~0u, sum[i], step);
  // Rows 4 r .. 4 r + 3 are with the lanes 8 r ...: lane l wants row l % kRows.
  const int from = lane % kRows / 4 * 8, which = lane % 4;
  float mine = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float v = __shfl_sync(~0u, sum[i], from);
    if (which == i) mine = v;
  }
  return mine;
}

// Everything of one warp's rows in one group. Tiled: groups wider than kTile.
template <bool Tiled>
class RowSearch {
 public:
  __device__ RowSearch(const Search& in, float* b, float* e, int64_t group, int64_t row0)
      : in_(in), b_(b), e_(e), group_(group), lane_(threadIdx.x % 32) {
    row_ = min(row0 + lane_ % kRows, in.q.rows - 1);
    live_ = row0 + lane_ % kRows < in.q.rows;
    top_ = static_cast<float>(in.q.max_code);
    source_ = in.w + row_ * in.q.cols + group * in.q.group;
    if (!Tiled) load(0);
  }

  __device__ void run() {
    find_range();
    least_ = 3e38f;
    best_ = pair_of_range(lo0_, hi0_, top_, in_.q.symmetric, in_.q.scale_type);
    const int steps = in_.full ? kFullSteps : kClipSteps;
    for (int step = 0; step < steps; ++step) {
      if (step >= kShifts && step < kRefits && in_.q.symmetric) continue;
      try_pair(step < kRefits ? candidate(step) : refitted());
    }
    finish();
  }

 private:
  __device__ int tiles() const { return Tiled ? (in_.q.group + kTile - 1) / kTile : 1; }

  __device__ void load(int tile) {
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      const int k = tile * kTile + 2 * i + lane_ / kRows;
      w_[i] = k < in_.q.group ? source_[k] : 0.0f;
    }
  }

  // The next tile of B, for all warps of the block: Tiled only.
  __device__ void load_block(int tile) {
    __syncthreads();
    load_gram(in_, b_, group_, tile);
    __syncthreads();
    load(tile);
  }

 public:
  static __device__ void load_gram(const Search& in, float* b, int64_t group, int tile) {
    const int64_t first = group * in.q.group + tile * kTile;
    const int width = min(kTile, in.q.group - tile * kTile);
    for (int i = threadIdx.x; i < kTile * kTile; i += blockDim.x) {
      const int r = i / kTile, c = i % kTile;
      b[i] = r < width && c < width ? in.gram[(first + r) * in.q.cols + first + c] : 0.0f;
    }
  }

 private:
  __device__ void find_range() {
    float lo = 0, hi = 0;
    for (int t = 0; t < tiles(); ++t) {
      if (Tiled) load(t);
#pragma unroll
      for (int i = 0; i < kOwn; ++i) lo = fminf(lo, w_[i]), hi = fmaxf(hi, w_[i]);
    }
    lo0_ = fminf(lo, __shfl_xor_sync(~0u, lo, kRows));
    hi0_ = fmaxf(hi, __shfl_xor_sync(~0u, hi, kRows));
  }

  // Steps: the whole range; AutoAWQ's clip; both ends in proportion; one end at a time around the best so far; the zero point; the scale
  // refitted.
  static constexpr int kClipSteps = 10, kFree = kClipSteps + 12, kShifts = kFree + 16, kRefits = kShifts + 2, kFullSteps = kRefits + 2;

  __device__ Pair candidate(int step) const {
    float lo = lo0_, hi = hi0_;
    if (step < kClipSteps) {
      const float c = fmaxf(-lo0_, hi0_) * (1 - static_cast<float>(step) / 20);
      if (step > 0) lo = fmaxf(lo0_, -c), hi = fminf(hi0_, c);
    } else if (step < kFree) {
      const float f = 1 - static_cast<float>(step - kClipSteps + 1) / 20;
      lo = lo0_ * f, hi = hi0_ * f;
    } else if (step < kShifts) {
      const int n = step - kFree, side = n / 2 % 2;
      const float size = n < 4 ? 0.08f : n < 8 ? 0.04f : n < 12 ? 0.02f : 0.01f;
      const float delta = (hi0_ - lo0_) * (n % 2 == 0 ? -size : size);
      const float low = -best_.zero * best_.scale, high = __fmaf_rn(best_.scale, top_, low);
      lo = fminf(side == 0 ? low + delta : low, 0.0f), hi = fmaxf(side == 1 ? high + delta : high, 0.0f);
    } else {
      return {best_.scale, fminf(fmaxf(best_.zero + (step == kShifts ? -1.0f : 1.0f), 0.0f), top_)};
    }
    return pair_of_range(lo, hi, top_, in_.q.symmetric, in_.q.scale_type);
  }

  __device__ void try_pair(Pair p) {
    const float inverse = 1.0f / p.scale;
    float loss = 0;
    for (int t = 0; t < tiles(); ++t) {
      if (Tiled) load_block(t);
      __syncwarp();
#pragma unroll
      for (int i = 0; i < kOwn; ++i)
        e_[(2 * i + lane_ / kRows) * kRows + lane_ % kRows] =
            __fmaf_rn(-(code_of(w_[i], inverse, p.zero, top_) - p.zero), p.scale, w_[i]);
      __syncwarp();
      float acc[kSquares][4][4];
      multiply<true>(b_, e_, acc);
      loss += fold(acc, e_);
    }
    if (loss < least_) least_ = loss, best_ = p;
  }

  // With codes fixed, c = q - z, the loss is quadratic in the scale: s = (w B c) / (c B c).
  __device__ Pair refitted() {
    float wbc = 0, cbc = 0;
    for (int t = 0; t < tiles(); ++t) {
      if (Tiled) load_block(t);
      __syncwarp();
#pragma unroll
      for (int i = 0; i < kOwn; ++i)
        e_[(2 * i + lane_ / kRows) * kRows + lane_ % kRows] =
            rintf(fminf(fmaxf(w_[i] / best_.scale + best_.zero, 0.0f), top_)) - best_.zero;
      __syncwarp();
      float acc[kSquares][4][4];
      multiply<false>(b_, e_, acc);
      cbc += fold(acc, e_);
      __syncwarp();
#pragma unroll
      for (int i = 0; i < kOwn; ++i) e_[(2 * i + lane_ / kRows) * kRows + lane_ % kRows] = w_[i];
      __syncwarp();
      wbc += fold(acc, e_);
    }
    const float s = wbc / fmaxf(cbc, 1e-30f);
    const bool usable = s > 0.25f * best_.scale && s < 4.0f * best_.scale;
    return {round_scale(usable ? s : best_.scale, in_.q.scale_type), best_.zero};
  }

  __device__ void finish() {
    const float inverse = 1.0f / best_.scale;
    uint8_t* codes = in_.q.codes + row_ * in_.q.cols + group_ * in_.q.group;
    for (int t = 0; t < tiles(); ++t) {
      if (Tiled) load(t);
#pragma unroll
      for (int i = 0; i < kOwn; ++i) {
        const int k = t * kTile + 2 * i + lane_ / kRows;
        if (live_ && k < in_.q.group) codes[k] = static_cast<uint8_t>(code_of(w_[i], inverse, best_.zero, top_));
      }
    }
    if (!live_ || lane_ >= kRows) return;
    in_.q.scales[row_ * in_.q.groups() + group_] = best_.scale;
    in_.q.zeros[row_ * in_.q.groups() + group_] = static_cast<uint8_t>(best_.zero);
  }

  const Search& in_;
  float *b_, *e_;
  int64_t group_, row_;
  int lane_;
  bool live_;
  float top_;
  const float* source_;
  float w_[kOwn];
  float lo0_, hi0_, least_;
  Pair best_;
};

// A block per group and share of the rows.
template <bool Tiled>
__global__ void __launch_bounds__(256) search_kernel(const __grid_constant__ Search in) {
  extern __shared__ float4 shared[];
  float* b = reinterpret_cast<float*>(shared);
  float* e = b + kTile * kTile + threadIdx.x / 32 * kTile * kRows;
  const int64_t group = blockIdx.y, rows = static_cast<int64_t>(blockDim.x / 32) * kRows;
  if (!Tiled) {
    RowSearch<Tiled>::load_gram(in, b, group, 0);
    __syncthreads();
  }
  // Warps beyond the last row take it again without writing: where Tiled all warps of a block load B together.
  for (int64_t first = blockIdx.x * rows; first < in.q.rows; first += gridDim.x * rows) {
    RowSearch<Tiled> search(in, b, e, group, first + threadIdx.x / 32 * kRows);
    search.run();
  }
}

}  // namespace

int search_shared_bytes(int warps) { return (kTile * kTile + warps * kTile * kRows) * static_cast<int>(sizeof(float)); }

cudaError_t launch_range_search(const float* w, const float* g, const RoundingView& q, bool full, int shared_limit, cudaStream_t stream) {
  const int warps = search_shared_bytes(8) <= shared_limit ? 8 : 4, shared = search_shared_bytes(warps);
  const bool tiled = q.group > kTile;
  const auto kernel = tiled ? search_kernel<true> : search_kernel<false>;
  if (const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared); error != cudaSuccess)
    return error;
  const int64_t shares = (q.rows + warps * kRows - 1) / (warps * kRows);
  const dim3 grid(static_cast<unsigned>(std::min<int64_t>(shares, 64)), static_cast<unsigned>(q.groups()));
  kernel<<<grid, warps * 32, shared, stream>>>({w, g, q, full});
  return cudaGetLastError();
}

}  // namespace awq::cuda
