// Error compensation, a warp per row: kernels/quant_compensate_impl.h in blocks of kColumnBlock columns, between which cuBLAS carries
// what a block has decided to all others. A lane has four consecutive columns of the block.
#include <algorithm>

#include "kernels/cuda/quant_rounding.cuh"

namespace awq::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32, kEach = 4;
static_assert(kColumnBlock == 32 * kEach);
constexpr int kSquareBytes = kColumnBlock * kColumnBlock * static_cast<int>(sizeof(float));

// What a lane knows of its columns in one row.
struct Columns {
  int place[kEach];  // in the matrix's own order; -1 behind the last column
  float scale[kEach], zero[kEach];

  __device__ Columns(const RoundingView& q, const int* order, int64_t first, int64_t row) {
    for (int m = 0; m < kEach; ++m) {
      const int64_t c = first + threadIdx.x % 32 * kEach + m;
      place[m] = c < q.cols ? order[c] : -1;
      const int64_t at = row * q.groups() + (place[m] < 0 ? 0 : place[m] / q.group);
      scale[m] = q.scales[at], zero[m] = static_cast<float>(q.zeros[at]);
    }
  }
};

// square [kColumnBlock, kColumnBlock] from a matrix with rows of `stride`, of which `width` rows and columns exist.
__device__ __forceinline__ void load_square(const float* from, int64_t stride, int64_t width, float* square) {
  for (int i = threadIdx.x; i < kColumnBlock * kColumnBlock; i += kThreads) {
    const int r = i / kColumnBlock, c = i % kColumnBlock;
    square[i] = r < width && c < width ? from[r * stride + c] : 0.0f;
  }
  __syncthreads();
}

__global__ void __launch_bounds__(kThreads) gptq_kernel(const float* work, const float* factor, const int* order, int64_t first,
                                                        const __grid_constant__ RoundingView q, float* error) {
  extern __shared__ float4 shared[];
  float* u = reinterpret_cast<float*>(shared);
  const int lane = threadIdx.x % 32;
  const int64_t width = min(static_cast<int64_t>(kColumnBlock), q.cols - first);
  load_square(factor + first * q.cols + first, q.cols, width, u);
  const float top = static_cast<float>(q.max_code);
  for (int64_t row = blockIdx.x * kWarps + threadIdx.x / 32; row < q.rows; row += static_cast<int64_t>(gridDim.x) * kWarps) {
    const Columns columns(q, order, first, row);
    float w[kEach], code[kEach] = {}, lost[kEach] = {};
    for (int m = 0; m < kEach; ++m) w[m] = columns.place[m] < 0 ? 0.0f : work[row * q.cols + first + lane * kEach + m];
    for (int owner = 0; owner * kEach < width; ++owner)
#pragma unroll
      for (int m = 0; m < kEach; ++m) {
        const int i = owner * kEach + m;
        if (i >= width) break;
        const float rounded = rintf(fminf(fmaxf(w[m] / columns.scale[m] + columns.zero[m], 0.0f), top));
        float e = __fmaf_rn(-(rounded - columns.zero[m]), columns.scale[m], w[m]) / u[i * kColumnBlock + i];
        if (lane == owner) code[m] = rounded, lost[m] = e;
        e = __shfl_sync(~0u, e, owner);
        const float4 line = shared[i * 32 + lane];
        w[0] = __fmaf_rn(-line.x, e, w[0]), w[1] = __fmaf_rn(-line.y, e, w[1]);
        w[2] = __fmaf_rn(-line.z, e, w[2]), w[3] = __fmaf_rn(-line.w, e, w[3]);
      }
    for (int m = 0; m < kEach; ++m)
      if (columns.place[m] >= 0) q.codes[row * q.cols + columns.place[m]] = static_cast<uint8_t>(code[m]);
    reinterpret_cast<float4*>(error)[row * 32 + lane] = make_float4(lost[0], lost[1], lost[2], lost[3]);
  }
}

__global__ void __launch_bounds__(kThreads) descent_kernel(const float* residual, const float* inner, const int* order, int64_t first,
                                                           const __grid_constant__ RoundingView q, float* step) {
  extern __shared__ float4 shared[];
  float* g = reinterpret_cast<float*>(shared);
  const int lane = threadIdx.x % 32;
  const int64_t width = min(static_cast<int64_t>(kColumnBlock), q.cols - first);
  load_square(inner, kColumnBlock, kColumnBlock, g);
  const float top = static_cast<float>(q.max_code);
  for (int64_t row = blockIdx.x * kWarps + threadIdx.x / 32; row < q.rows; row += static_cast<int64_t>(gridDim.x) * kWarps) {
    const Columns columns(q, order, first, row);
    float r[kEach], code[kEach], moved[kEach] = {}, slope[kEach];
    for (int m = 0; m < kEach; ++m) {
      const bool there = columns.place[m] >= 0;
      r[m] = there ? residual[row * q.cols + columns.place[m]] : 0.0f;
      code[m] = there ? static_cast<float>(q.codes[row * q.cols + columns.place[m]]) : 0.0f;
      const int i = lane * kEach + m;
      slope[m] = there ? g[i * kColumnBlock + i] : 0.0f;
    }
    for (int owner = 0; owner * kEach < width; ++owner)
#pragma unroll
      for (int m = 0; m < kEach; ++m) {
        const int i = owner * kEach + m;
        if (i >= width) break;
        float change = 0;
        if (lane == owner && slope[m] > 0) {
          const float wanted = code[m] + rintf(fminf(fmaxf(r[m] / (columns.scale[m] * slope[m]), -16.0f), 16.0f));
          const float next = fminf(fmaxf(wanted, 0.0f), top);
          change = (next - code[m]) * columns.scale[m];
          code[m] = next, moved[m] = change;
        }
        change = __shfl_sync(~0u, change, owner);
        if (change == 0) continue;  // for the whole warp
        const float4 line = shared[i * 32 + lane];
        r[0] = __fmaf_rn(-line.x, change, r[0]), r[1] = __fmaf_rn(-line.y, change, r[1]);
        r[2] = __fmaf_rn(-line.z, change, r[2]), r[3] = __fmaf_rn(-line.w, change, r[3]);
      }
    for (int m = 0; m < kEach; ++m)
      if (columns.place[m] >= 0) q.codes[row * q.cols + columns.place[m]] = static_cast<uint8_t>(code[m]);
    reinterpret_cast<float4*>(step)[row * 32 + lane] = make_float4(moved[0], moved[1], moved[2], moved[3]);
  }
}

__global__ void gather_columns_kernel(const float* w, const int* order, int64_t cols, float* y) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * cols;
  for (int64_t i = threadIdx.x; i < cols; i += kThreads) y[row + i] = w[row + order[i]];
}

__global__ void pick_rows_kernel(const float* gram, const int* order, int64_t first, int64_t cols, float* picked, float* inner) {
  const int64_t at = first + blockIdx.x;
  const float* from = at < cols ? gram + static_cast<int64_t>(order[at]) * cols : nullptr;
  for (int64_t i = threadIdx.x; i < cols; i += kThreads) picked[blockIdx.x * cols + i] = from ? from[i] : 0.0f;
  for (int i = threadIdx.x; i < kColumnBlock; i += kThreads)
    inner[blockIdx.x * kColumnBlock + i] = from && first + i < cols ? from[order[first + i]] : 0.0f;
}

__global__ void centred_codes_kernel(const __grid_constant__ RoundingView q, float* c) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < q.rows * q.cols; i += int64_t{gridDim.x} * kThreads)
    c[i] = static_cast<float>(q.codes[i]) - static_cast<float>(q.zeros[i / q.cols * q.groups() + i % q.cols / q.group]);
}

__global__ void group_dots_kernel(const float* a, int64_t lda, const float* b, int64_t ldb, int64_t rows, int groups, int group, float* out,
                                  int64_t out_stride) {
  const int64_t unit = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32, row = unit / groups;
  const int h = static_cast<int>(unit % groups), lane = threadIdx.x % 32;
  if (row >= rows) return;
  float sum = 0;
  for (int j = h * group + lane; j < (h + 1) * group; j += 32) sum = __fmaf_rn(a[row * lda + j], b[row * ldb + j], sum);
#pragma unroll
  for (int i = 16; i > 0; i /= 2) sum += __shfl_xor_sync(~0u, sum, i);
  if (lane == 0) out[row * out_stride + h] = sum;
}

constexpr int kRefitThreads = 128;

__device__ __forceinline__ double* lower_row(double* m, int g) { return m + g * (g + 1) / 2; }

// A block per row: the Cholesky factor of the normal matrix (packed lower triangle), then two triangular solutions.
__global__ void __launch_bounds__(kRefitThreads) refit_kernel(const float* normal, const float* right, const __grid_constant__ RoundingView q,
                                                              double* work) {
  extern __shared__ double room[];
  __shared__ bool bad;
  const int n = static_cast<int>(q.groups()), thread = threadIdx.x;
  double* m = work ? work + static_cast<int64_t>(blockIdx.x) * (n * (n + 1) / 2 + n) : room;
  double* x = m + n * (n + 1) / 2;
  for (int64_t row = blockIdx.x; row < q.rows; row += gridDim.x) {
    float* scales = q.scales + row * n;
    if (thread == 0) bad = false;
    for (int g = thread; g < n; g += kRefitThreads) {
      const float* from = normal + (row * n + g) * n;
      for (int h = 0; h <= g; ++h) lower_row(m, g)[h] = from[h];
      x[g] = right[row * n + g];
      if (!(from[g] > 0)) lower_row(m, g)[g] = 1, x[g] = scales[g];
    }
    __syncthreads();
    for (int j = 0; j < n; ++j) {
      const double pivot = lower_row(m, j)[j];
      if (!(pivot > 0) && thread == 0) bad = true;
      const double root = sqrt(pivot);
      __syncthreads();
      if (bad) break;
      for (int i = j + 1 + thread; i < n; i += kRefitThreads) lower_row(m, i)[j] /= root;
      if (thread == 0) lower_row(m, j)[j] = root;
      __syncthreads();
      for (int i = j + 1 + thread; i < n; i += kRefitThreads) {
        double* to = lower_row(m, i);
        const double by = to[j];
        for (int k = j + 1; k <= i; ++k) to[k] -= by * lower_row(m, k)[j];
      }
      __syncthreads();
    }
    if (!bad) {
      for (int j = 0; j < n; ++j) {
        if (thread == 0) x[j] /= lower_row(m, j)[j];
        __syncthreads();
        for (int i = j + 1 + thread; i < n; i += kRefitThreads) x[i] -= lower_row(m, i)[j] * x[j];
        __syncthreads();
      }
      for (int j = n - 1; j >= 0; --j) {
        if (thread == 0) x[j] /= lower_row(m, j)[j];
        __syncthreads();
        for (int i = thread; i < j; i += kRefitThreads) x[i] -= lower_row(m, j)[i] * x[j];
        __syncthreads();
      }
      for (int g = thread; g < n; g += kRefitThreads)
        if (!(x[g] > scales[g] / 2.0 && x[g] < scales[g] * 2.0)) bad = true;
      __syncthreads();
      if (!bad)
        for (int g = thread; g < n; g += kRefitThreads) {
          const auto s = static_cast<float>(x[g]);
          scales[g] = q.scale_type == ScaleType::kF16    ? __half2float(__float2half_rn(s))
                      : q.scale_type == ScaleType::kBF16 ? __bfloat162float(__float2bfloat16_rn(s))
                                                         : s;
        }
    }
    __syncthreads();
  }
}

__global__ void keep_better_kernel(const double* after, double* best, const __grid_constant__ RoundingView from,
                                   const __grid_constant__ RoundingView kept) {
  const int64_t row = blockIdx.x;
  const bool better = after[row] < best[row];
  __syncthreads();
  if (!better) return;
  if (threadIdx.x == 0) best[row] = after[row];
  for (int64_t i = threadIdx.x; i < from.cols; i += kThreads) kept.codes[row * from.cols + i] = from.codes[row * from.cols + i];
  for (int64_t g = threadIdx.x; g < from.groups(); g += kThreads) kept.scales[row * from.groups() + g] = from.scales[row * from.groups() + g];
}

int blocks_for(int64_t n) { return static_cast<int>(std::clamp<int64_t>((n + kThreads - 1) / kThreads, 1, 132 * 32)); }
int row_blocks(int64_t rows) { return static_cast<int>(std::min<int64_t>((rows + kWarps - 1) / kWarps, 132 * 3)); }

}  // namespace

cudaError_t launch_gather_columns(const float* w, const int* order, int64_t rows, int64_t cols, float* y, cudaStream_t stream) {
  gather_columns_kernel<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(w, order, cols, y);
  return cudaGetLastError();
}

cudaError_t launch_gptq_block(const float* work, const float* factor, const int* order, int64_t first, const RoundingView& q, float* error,
                              cudaStream_t stream) {
  if (const cudaError_t e = cudaFuncSetAttribute(gptq_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSquareBytes); e != cudaSuccess)
    return e;
  gptq_kernel<<<row_blocks(q.rows), kThreads, kSquareBytes, stream>>>(work, factor, order, first, q, error);
  return cudaGetLastError();
}

cudaError_t launch_pick_rows(const float* gram, const int* order, int64_t first, int64_t cols, float* picked, float* inner,
                             cudaStream_t stream) {
  pick_rows_kernel<<<kColumnBlock, kThreads, 0, stream>>>(gram, order, first, cols, picked, inner);
  return cudaGetLastError();
}

cudaError_t launch_descent_block(const float* residual, const float* inner, const int* order, int64_t first, const RoundingView& q,
                                 float* step, cudaStream_t stream) {
  if (const cudaError_t e = cudaFuncSetAttribute(descent_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSquareBytes);
      e != cudaSuccess)
    return e;
  descent_kernel<<<row_blocks(q.rows), kThreads, kSquareBytes, stream>>>(residual, inner, order, first, q, step);
  return cudaGetLastError();
}

cudaError_t launch_centred_codes(const RoundingView& q, float* c, cudaStream_t stream) {
  centred_codes_kernel<<<blocks_for(q.rows * q.cols), kThreads, 0, stream>>>(q, c);
  return cudaGetLastError();
}

cudaError_t launch_group_dots(const float* a, int64_t lda, const float* b, int64_t ldb, int64_t rows, int groups, int group, float* out,
                              int64_t out_stride, cudaStream_t stream) {
  group_dots_kernel<<<static_cast<unsigned>((rows * groups + kWarps - 1) / kWarps), kThreads, 0, stream>>>(a, lda, b, ldb, rows, groups,
                                                                                                       group, out, out_stride);
  return cudaGetLastError();
}

int refit_shared_bytes(int groups) { return (groups * (groups + 1) / 2 + groups) * static_cast<int>(sizeof(double)); }

cudaError_t launch_refit(const float* normal, const float* right, const RoundingView& q, double* work, int shared_limit,
                         cudaStream_t stream) {
  int shared = refit_shared_bytes(static_cast<int>(q.groups()));
  const bool fits = shared <= shared_limit - 1024;
  if (!fits) shared = 0;
  if (const cudaError_t e = cudaFuncSetAttribute(refit_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared); e != cudaSuccess)
    return e;
  const int64_t most = fits ? 132 * 16 : kRefitBlocks;
  refit_kernel<<<static_cast<unsigned>(std::min(q.rows, most)), kRefitThreads, shared, stream>>>(normal, right, q, fits ? nullptr : work);
  return cudaGetLastError();
}

cudaError_t launch_keep_better(const double* after, double* best, const RoundingView& from, const RoundingView& kept, cudaStream_t stream) {
  keep_better_kernel<<<static_cast<unsigned>(from.rows), kThreads, 0, stream>>>(after, best, from, kept);
  return cudaGetLastError();
}

}  // namespace awq::cuda
