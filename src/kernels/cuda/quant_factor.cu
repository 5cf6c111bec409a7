// The pieces of the factor of an inverse Gram matrix that are not products: diagonal blocks and reorderings, in double precision.
#include <algorithm>

#include "kernels/cuda/quant_kernels.h"

namespace awq::cuda {
namespace {

constexpr int kThreads = 256;

unsigned blocks_for(int64_t n) { return static_cast<unsigned>(std::clamp<int64_t>((n + kThreads - 1) / kThreads, 1, 132 * 32)); }

#define AWQ_EACH(i, n) \
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < (n); i += static_cast<int64_t>(gridDim.x) * kThreads)

__global__ void reversed_kernel(const float* gram, const float* diagonal, const int* order, int64_t n, double* h) {
  AWQ_EACH(i, n * n) {
    const int64_t row = order[n - 1 - i / n], column = order[n - 1 - i % n];
    h[i] = row == column ? diagonal[row] : gram[row * n + column];
  }
}

// l[r][c] and x[r][c] in shared memory, one block. Every step of the factor needs the one before.
__global__ void __launch_bounds__(kThreads) factor_block_kernel(double* h, int64_t ldh, int n, double* inverse, int* failed) {
  __shared__ double l[kFactorBlock][kFactorBlock + 1];
  __shared__ bool bad;
  const int thread = threadIdx.x;
  if (thread == 0) bad = false;
  for (int i = thread; i < n * n; i += kThreads) l[i % n][i / n] = i % n >= i / n ? h[i / n * ldh + i % n] : 0.0;
  __syncthreads();
  for (int j = 0; j < n; ++j) {
    const double pivot = l[j][j];
    if (!(pivot > 0) || !isfinite(pivot)) bad = true;
    __syncthreads();
    if (bad) break;
    const double root = sqrt(pivot);
    for (int r = j + 1 + thread; r < n; r += kThreads) l[r][j] /= root;
    if (thread == 0) l[j][j] = root;
    __syncthreads();
    for (int i = thread; i < (n - j - 1) * (n - j - 1); i += kThreads) {
      const int r = j + 1 + i / (n - j - 1), c = j + 1 + i % (n - j - 1);
      if (c <= r) l[r][c] -= l[r][j] * l[c][j];
    }
    __syncthreads();
  }
  if (bad) {
    if (thread == 0) *failed = 1;
    return;
  }
  for (int i = thread; i < n * n; i += kThreads)
    if (i % n >= i / n) h[i / n * ldh + i % n] = l[i % n][i / n];
  // A thread per column of the inverse: L x = e_c.
  if (thread >= n) return;
  double* x = inverse + thread * kFactorBlock;
  for (int r = 0; r < thread; ++r) x[r] = 0;
  for (int r = thread; r < n; ++r) {
    double sum = r == thread ? 1 : 0;
    for (int k = thread; k < r; ++k) sum -= l[r][k] * x[k];
    x[r] = sum / l[r][r];
  }
}

__global__ void place_block_kernel(double* h, int64_t ldh, int n, const double* inverse) {
  for (int i = threadIdx.x; i < n * n; i += kThreads) h[i / n * ldh + i % n] = inverse[i / n * kFactorBlock + i % n];
}

__global__ void upper_factor_kernel(const double* l, int64_t n, float* factor) {
  __shared__ float tile[32][33];  // [column of l][row of l]
  const int64_t r0 = int64_t{32} * blockIdx.x, c0 = int64_t{32} * blockIdx.y;
  const int x = threadIdx.x % 32;
  for (int y = threadIdx.x / 32; y < 32; y += kThreads / 32)
    if (r0 + x < n && c0 + y < n) tile[y][x] = r0 + x >= c0 + y ? static_cast<float>(l[(c0 + y) * n + r0 + x]) : 0.0f;
  __syncthreads();
  for (int y = threadIdx.x / 32; y < 32; y += kThreads / 32)
    if (r0 + y < n && c0 + x < n) factor[(n - 1 - r0 - y) * n + n - 1 - c0 - x] = tile[x][y];
}

__global__ void diagonal_kernel(float* g, int64_t n, float* read, const float* write) {
  AWQ_EACH(i, n) {
    if (read) read[i] = g[i * n + i];
    if (write) g[i * n + i] = write[i];
  }
}

}  // namespace

cudaError_t launch_reversed(const float* gram, const float* diagonal, const int* order, int64_t n, double* h, cudaStream_t stream) {
  reversed_kernel<<<blocks_for(n * n), kThreads, 0, stream>>>(gram, diagonal, order, n, h);
  return cudaGetLastError();
}

cudaError_t launch_factor_block(double* h, int64_t ldh, int n, double* inverse, int* failed, cudaStream_t stream) {
  factor_block_kernel<<<1, kThreads, 0, stream>>>(h, ldh, n, inverse, failed);
  return cudaGetLastError();
}

cudaError_t launch_place_block(double* h, int64_t ldh, int n, const double* inverse, cudaStream_t stream) {
  place_block_kernel<<<1, kThreads, 0, stream>>>(h, ldh, n, inverse);
  return cudaGetLastError();
}

cudaError_t launch_upper_factor(const double* l, int64_t n, float* factor, cudaStream_t stream) {
  const auto tiles = static_cast<unsigned>((n + 31) / 32);
  upper_factor_kernel<<<dim3(tiles, tiles), kThreads, 0, stream>>>(l, n, factor);
  return cudaGetLastError();
}

cudaError_t launch_read_diagonal(const float* g, int64_t n, float* d, cudaStream_t stream) {
  diagonal_kernel<<<blocks_for(n), kThreads, 0, stream>>>(const_cast<float*>(g), n, d, nullptr);
  return cudaGetLastError();
}

cudaError_t launch_write_diagonal(float* g, int64_t n, const float* d, cudaStream_t stream) {
  diagonal_kernel<<<blocks_for(n), kThreads, 0, stream>>>(g, n, nullptr, d);
  return cudaGetLastError();
}

}  // namespace awq::cuda
