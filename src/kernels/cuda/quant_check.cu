// Two distributions over the next token, compared row by row.
#include "kernels/cuda/quant_kernels.h"

namespace awq::cuda {
namespace {

constexpr int kThreads = 512, kWarps = kThreads / 32;

// Both sums of all threads, for all of them.
__device__ double2 block_sums(double a, double b, double2* parts) {
#pragma unroll
  for (int i = 16; i > 0; i /= 2) a += __shfl_xor_sync(~0u, a, i), b += __shfl_xor_sync(~0u, b, i);
  __syncthreads();
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = make_double2(a, b);
  __syncthreads();
  double2 sum = make_double2(0, 0);
  for (int w = 0; w < kWarps; ++w) sum.x += parts[w].x, sum.y += parts[w].y;
  return sum;
}

// The largest value of a row and where it first is, for all threads.
__device__ void block_top(const float* row, int64_t n, float* values, int* places, float& top, int& place) {
  float best = -INFINITY;
  int at = 0x7fffffff;
  for (int64_t i = threadIdx.x; i < n; i += kThreads)
    if (row[i] > best) best = row[i], at = static_cast<int>(i);
  for (int i = 16; i > 0; i /= 2) {
    const float v = __shfl_xor_sync(~0u, best, i);
    const int p = __shfl_xor_sync(~0u, at, i);
    if (v > best || (v == best && p < at)) best = v, at = p;
  }
  __syncthreads();
  if (threadIdx.x % 32 == 0) values[threadIdx.x / 32] = best, places[threadIdx.x / 32] = at;
  __syncthreads();
  top = values[0], place = places[0];
  for (int w = 1; w < kWarps; ++w)
    if (values[w] > top || (values[w] == top && places[w] < place)) top = values[w], place = places[w];
}

__global__ void __launch_bounds__(kThreads) compare_kernel(const float* p_logits, const float* q_logits, int64_t vocab, const int* targets,
                                                           RowLoss* losses) {
  __shared__ double2 parts[kWarps];
  __shared__ float values[kWarps];
  __shared__ int places[kWarps];
  const float *p = p_logits + blockIdx.x * vocab, *q = q_logits + blockIdx.x * vocab;
  float p_top, q_top;
  int p_place, q_place;
  block_top(p, vocab, values, places, p_top, p_place);
  block_top(q, vocab, values, places, q_top, q_place);
  double p_sum = 0, q_sum = 0;
  for (int64_t i = threadIdx.x; i < vocab; i += kThreads) p_sum += expf(p[i] - p_top), q_sum += expf(q[i] - q_top);
  const double2 sums = block_sums(p_sum, q_sum, parts);
  const double p_log = p_top + log(sums.x), q_log = q_top + log(sums.y);
  double kl = 0;
  for (int64_t i = threadIdx.x; i < vocab; i += kThreads) {
    const double log_p = p[i] - p_log;
    kl += expf(static_cast<float>(log_p)) * (log_p - (q[i] - q_log));
  }
  kl = block_sums(kl, 0, parts).x;
  if (threadIdx.x != 0) return;
  const int target = targets[blockIdx.x];
  losses[blockIdx.x] = {kl, p[target] - p_log, q[target] - q_log, p_place == q_place};
}

}  // namespace

cudaError_t launch_compare(const float* p_logits, const float* q_logits, int64_t rows, int64_t vocab, const int* targets, RowLoss* losses,
                           cudaStream_t stream) {
  compare_kernel<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(p_logits, q_logits, vocab, targets, losses);
  return cudaGetLastError();
}

}  // namespace awq::cuda
