// Element by element and row by row: scaling, rounding to nearest, errors and sums.
#include <algorithm>

#include "kernels/cuda/quant_rounding.cuh"

namespace awq::cuda {
namespace {

constexpr int kThreads = 256;

int blocks_for(int64_t n) { return static_cast<int>(std::clamp<int64_t>((n + kThreads - 1) / kThreads, 1, 132 * 32)); }

#define AWQ_EACH(i, n)                                                                                                 \
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < (n); i += static_cast<int64_t>(gridDim.x) * blockDim.x)

__device__ float to_float(__half v) { return __half2float(v); }
__device__ float to_float(__nv_bfloat16 v) { return __bfloat162float(v); }

template <class T>
__global__ void to_f32_kernel(const T* x, int64_t n, float* y) {
  AWQ_EACH(i, n) y[i] = to_float(x[i]);
}

// Where the parts of x[r][c] go, each at r * stride + c; the high part once or twice.
struct SplitTargets {
  __nv_bfloat16 *high, *again, *low;
  int64_t stride;
};
__global__ void split_kernel(const float* x, int64_t stride, int64_t rows, int64_t cols, SplitTargets to) {
  AWQ_EACH(i, rows * cols) {
    const int64_t r = i / cols, c = i % cols, at = r * to.stride + c;
    const float v = x[r * stride + c];
    const __nv_bfloat16 high = __float2bfloat16_rn(v);
    to.high[at] = high;
    if (to.again) to.again[at] = high;
    to.low[at] = __float2bfloat16_rn(v - __bfloat162float(high));
  }
}

__global__ void scale_columns_kernel(const float* x, const float* s, int64_t n, int64_t cols, float* y) {
  AWQ_EACH(i, n) y[i] = x[i] * s[i % cols];
}

__global__ void divide_rows_kernel(float* x, const float* s, int64_t n, int64_t cols) {
  AWQ_EACH(i, n) x[i] = x[i] / s[i / cols];
}

__global__ void scaled_gram_kernel(const float* g, const float* s, int64_t dim, float* y) {
  AWQ_EACH(i, dim * dim) y[i] = g[i] * (1.0f / s[i / dim]) / s[i % dim];
}

// A block per chunk of rows; a warp takes a group of columns, all rows of the chunk one after the other.
__global__ void relative_magnitudes_kernel(const float* w, int64_t rows, int64_t cols, int group, double* partial) {
  const int lane = threadIdx.x % 32, warps = blockDim.x / 32;
  const int64_t groups = cols / group, each = (rows + gridDim.x - 1) / gridDim.x;
  const int64_t begin = blockIdx.x * each, end = min(rows, begin + each);
  double* out = partial + blockIdx.x * cols;
  for (int64_t g = blockIdx.y * warps + threadIdx.x / 32; g < groups; g += static_cast<int64_t>(gridDim.y) * warps) {
    for (int k = lane; k < group; k += 32) out[g * group + k] = 0;
    for (int64_t r = begin; r < end; ++r) {
      const float* row = w + r * cols + g * group;
      float largest = 0;
      for (int k = lane; k < group; k += 32) largest = fmaxf(largest, fabsf(row[k]));
      const float inverse = 1.0f / (warp_largest(largest) + 1e-6f);
      for (int k = lane; k < group; k += 32) out[g * group + k] += static_cast<double>(fabsf(row[k]) * inverse);
    }
  }
}

// A warp per row and group. With c: the error in the unscaled space goes to e; without: codes, scale and zero go to q.
__global__ void minmax_kernel(const float* w, const float* c, RoundingView q, float* e) {
  const int lane = threadIdx.x % 32;
  const int64_t unit = static_cast<int64_t>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32, groups = q.groups();
  if (unit >= q.rows * groups) return;
  const int64_t g = unit % groups, at = unit / groups * q.cols + g * q.group;
  const float* scale_of = c ? c + g * q.group : nullptr;
  float lo = 0, hi = 0;
  for (int k = lane; k < q.group; k += 32) {
    const float v = c ? w[at + k] * scale_of[k] : w[at + k];
    lo = fminf(lo, v), hi = fmaxf(hi, v);
  }
  const float top = static_cast<float>(q.max_code);
  const Pair p = pair_of_range(warp_least(lo), warp_largest(hi), top, q.symmetric, q.scale_type);
  const float inverse = 1.0f / p.scale;
  for (int k = lane; k < q.group; k += 32) {
    const float v = w[at + k];
    if (c) {
      const float code = code_of(v * scale_of[k], inverse, p.zero, top);
      e[at + k] = __fmaf_rn(-((code - p.zero) * p.scale), 1.0f / scale_of[k], v);
    } else {
      q.codes[at + k] = static_cast<uint8_t>(code_of(v, inverse, p.zero, top));
    }
  }
  if (!c && lane == 0) q.scales[unit] = p.scale, q.zeros[unit] = static_cast<uint8_t>(p.zero);
}

__global__ void rounding_error_kernel(const float* w, RoundingView q, float* e) {
  AWQ_EACH(i, q.rows * q.cols) {
    const int64_t at = i / q.cols * q.groups() + i % q.cols / q.group;
    const float value = (static_cast<float>(q.codes[i]) - static_cast<float>(q.zeros[at])) * q.scales[at];
    e[i] = w ? w[i] - value : value;
  }
}

// A block per row; threads' sums meet in a fixed order.
__global__ void row_dots_kernel(const float* a, const float* b, int64_t cols, double* loss) {
  __shared__ double parts[kThreads / 32];
  const int64_t row = static_cast<int64_t>(blockIdx.x) * cols;
  double sum = 0;
  for (int64_t k = threadIdx.x; k < cols; k += kThreads) sum += static_cast<double>(a[row + k]) * b[row + k];
#pragma unroll
  for (int i = 16; i > 0; i /= 2) sum += __shfl_xor_sync(~0u, sum, i);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  sum = 0;
  for (const double p : parts) sum += p;
  loss[blockIdx.x] = sum;
}

// A thread per column and chunk of tokens.
template <class T>
__global__ void input_magnitudes_kernel(const T* x, int64_t tokens, int64_t dim, double* partial) {
  const int64_t k = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (k >= dim) return;
  const int64_t each = (tokens + kMagnitudeChunks - 1) / kMagnitudeChunks, begin = blockIdx.y * each, end = min(tokens, begin + each);
  double sum = 0;
  float largest = 0;
  for (int64_t t = begin; t < end; ++t) {
    const float v = fabsf(to_float(x[t * dim + k]));
    sum += v, largest = fmaxf(largest, v);
  }
  partial[blockIdx.y * dim + k] = sum;
  partial[(kMagnitudeChunks + blockIdx.y) * dim + k] = largest;
}

__global__ void add_magnitudes_kernel(const double* partial, int64_t dim, double* sum, float* largest) {
  const int64_t k = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (k >= dim) return;
  double total = sum[k], most = largest[k];
  for (int c = 0; c < kMagnitudeChunks; ++c) {
    total += partial[c * dim + k];
    most = fmax(most, partial[(kMagnitudeChunks + c) * dim + k]);
  }
  sum[k] = total, largest[k] = static_cast<float>(most);
}

}  // namespace

cudaError_t launch_to_f32(Act act, const void* x, int64_t n, float* y, cudaStream_t stream) {
  if (act == Act::kF16)
    to_f32_kernel<<<blocks_for(n), kThreads, 0, stream>>>(static_cast<const __half*>(x), n, y);
  else
    to_f32_kernel<<<blocks_for(n), kThreads, 0, stream>>>(static_cast<const __nv_bfloat16*>(x), n, y);
  return cudaGetLastError();
}

cudaError_t launch_split(const float* x, int64_t stride, int64_t rows, int64_t cols, void* high, void* low, cudaStream_t stream) {
  const SplitTargets to{static_cast<__nv_bfloat16*>(high), nullptr, static_cast<__nv_bfloat16*>(low), cols};
  split_kernel<<<blocks_for(rows * cols), kThreads, 0, stream>>>(x, stride, rows, cols, to);
  return cudaGetLastError();
}

cudaError_t launch_split_across(const float* x, int64_t stride, int64_t rows, int64_t cols, void* y, cudaStream_t stream) {
  auto* at = static_cast<__nv_bfloat16*>(y);
  split_kernel<<<blocks_for(rows * cols), kThreads, 0, stream>>>(x, stride, rows, cols, {at, at + cols, at + 2 * cols, 3 * cols});
  return cudaGetLastError();
}

cudaError_t launch_split_below(const float* x, int64_t stride, int64_t rows, int64_t cols, void* y, cudaStream_t stream) {
  auto* at = static_cast<__nv_bfloat16*>(y);
  const int64_t part = rows * cols;
  split_kernel<<<blocks_for(part), kThreads, 0, stream>>>(x, stride, rows, cols, {at, at + 2 * part, at + part, cols});
  return cudaGetLastError();
}

cudaError_t launch_scale_columns(const float* x, const float* s, int64_t rows, int64_t cols, float* y, cudaStream_t stream) {
  scale_columns_kernel<<<blocks_for(rows * cols), kThreads, 0, stream>>>(x, s, rows * cols, cols, y);
  return cudaGetLastError();
}

cudaError_t launch_divide_rows(float* x, const float* s, int64_t rows, int64_t cols, cudaStream_t stream) {
  divide_rows_kernel<<<blocks_for(rows * cols), kThreads, 0, stream>>>(x, s, rows * cols, cols);
  return cudaGetLastError();
}

cudaError_t launch_scaled_gram(const float* g, const float* s, int64_t dim, float* y, cudaStream_t stream) {
  scaled_gram_kernel<<<blocks_for(dim * dim), kThreads, 0, stream>>>(g, s, dim, y);
  return cudaGetLastError();
}

cudaError_t launch_relative_magnitudes(const float* w, int64_t rows, int64_t cols, int group, double* partial, cudaStream_t stream) {
  const int across = static_cast<int>(std::min<int64_t>(8, (cols / group + kThreads / 32 - 1) / (kThreads / 32)));
  relative_magnitudes_kernel<<<dim3(kMagnitudeChunks, static_cast<unsigned>(across)), kThreads, 0, stream>>>(w, rows, cols, group, partial);
  return cudaGetLastError();
}

cudaError_t launch_minmax_error(const float* w, const float* c, const RoundingView& q, float* e, cudaStream_t stream) {
  constexpr int kWarps = kThreads / 32;
  minmax_kernel<<<static_cast<unsigned>((q.rows * q.groups() + kWarps - 1) / kWarps), kThreads, 0, stream>>>(w, c, q, e);
  return cudaGetLastError();
}

cudaError_t launch_minmax(const float* w, const RoundingView& q, cudaStream_t stream) {
  return launch_minmax_error(w, nullptr, q, nullptr, stream);
}

cudaError_t launch_rounding_error(const float* w, const RoundingView& q, float* e, cudaStream_t stream) {
  rounding_error_kernel<<<blocks_for(q.rows * q.cols), kThreads, 0, stream>>>(w, q, e);
  return cudaGetLastError();
}

cudaError_t launch_dequantize_codes(const RoundingView& q, float* y, cudaStream_t stream) {
  return launch_rounding_error(nullptr, q, y, stream);
}

cudaError_t launch_row_dots(const float* a, const float* b, int64_t rows, int64_t cols, double* loss, cudaStream_t stream) {
  row_dots_kernel<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(a, b, cols, loss);
  return cudaGetLastError();
}

cudaError_t launch_input_magnitudes(Act act, const void* x, int64_t tokens, int64_t dim, double* partial, double* sum, float* largest,
                                    cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((dim + kThreads - 1) / kThreads), kMagnitudeChunks);
  if (act == Act::kF16)
    input_magnitudes_kernel<<<grid, kThreads, 0, stream>>>(static_cast<const __half*>(x), tokens, dim, partial);
  else
    input_magnitudes_kernel<<<grid, kThreads, 0, stream>>>(static_cast<const __nv_bfloat16*>(x), tokens, dim, partial);
  add_magnitudes_kernel<<<grid.x, kThreads, 0, stream>>>(partial, dim, sum, largest);
  return cudaGetLastError();
}

}  // namespace awq::cuda
