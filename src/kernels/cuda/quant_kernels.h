// The kernels of quantization on a GPU: what quant_ops.h computes on the CPU, on device memory. Matrices are row-major fp32 unless said
// otherwise. All launches return at once; nothing allocates; sums are ordered by shape, never by timing.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/launch.h"

namespace awq::cuda {

// What scales are rounded to.
enum class ScaleType : uint8_t { kF16, kBF16, kF32 };

// How a rounding is stored: codes [rows, cols], scales and zeros [rows, cols / group].
struct RoundingView {
  uint8_t* codes = nullptr;
  float* scales = nullptr;
  uint8_t* zeros = nullptr;  // written for symmetric schemes too
  int64_t rows = 0, cols = 0;
  int group = 0, max_code = 15;
  bool symmetric = false;
  ScaleType scale_type = ScaleType::kF16;
  AWQ_HOST_DEVICE int64_t groups() const { return cols / group; }
};

// --- quant_matrix.cu
// y [n] in fp32 of x in fp16 or bf16.
cudaError_t launch_to_f32(Act act, const void* x, int64_t n, float* y, cudaStream_t stream);
// x [rows, cols] with row stride `stride` = high + low, both bf16 [rows, cols].
cudaError_t launch_split(const float* x, int64_t stride, int64_t rows, int64_t cols, void* high, void* low, cudaStream_t stream);
// Three copies for one product over 3 cols: across [rows, 3 cols] = high, high, low; below [3 rows, cols] = high, low, high.
cudaError_t launch_split_across(const float* x, int64_t stride, int64_t rows, int64_t cols, void* y, cudaStream_t stream);
cudaError_t launch_split_below(const float* x, int64_t stride, int64_t rows, int64_t cols, void* y, cudaStream_t stream);
// y[r][k] = x[r][k] * s[k]; x == y allowed.
cudaError_t launch_scale_columns(const float* x, const float* s, int64_t rows, int64_t cols, float* y, cudaStream_t stream);
cudaError_t launch_divide_rows(float* x, const float* s, int64_t rows, int64_t cols, cudaStream_t stream);
// y[i][j] = g[i][j] * (1 / s[i]) / s[j].
cudaError_t launch_scaled_gram(const float* g, const float* s, int64_t dim, float* y, cudaStream_t stream);
// partial [chunks][cols], each the sum over its part of the rows of |w| / (largest |w| of the group + 1e-6).
inline constexpr int kMagnitudeChunks = 64;
cudaError_t launch_relative_magnitudes(const float* w, int64_t rows, int64_t cols, int group, double* partial, cudaStream_t stream);
// e = w - Q(w c) / c, Q rounding to nearest on each group's range (minmax_error). q gives the scheme; its arrays are not read.
cudaError_t launch_minmax_error(const float* w, const float* c, const RoundingView& q, float* e, cudaStream_t stream);
// Rounds to nearest on each group's range (quantize_minmax).
cudaError_t launch_minmax(const float* w, const RoundingView& q, cudaStream_t stream);
// e = w - Q.
cudaError_t launch_rounding_error(const float* w, const RoundingView& q, float* e, cudaStream_t stream);
// The numbers themselves.
cudaError_t launch_dequantize_codes(const RoundingView& q, float* y, cudaStream_t stream);
// loss[r] = Σ_k a[r][k] b[r][k], in double.
cudaError_t launch_row_dots(const float* a, const float* b, int64_t rows, int64_t cols, double* loss, cudaStream_t stream);
// Of x [tokens, dim], fp16 or bf16: sum[k] += Σ |x|, largest[k] = max(largest[k], |x|). partial: 2 * kMagnitudeChunks * dim doubles.
cudaError_t launch_input_magnitudes(Act act, const void* x, int64_t tokens, int64_t dim, double* partial, double* sum, float* largest,
                                    cudaStream_t stream);

// --- quant_search.cu: range_search; g is the whole Gram matrix [cols, cols].
int search_shared_bytes(int warps);
cudaError_t launch_range_search(const float* w, const float* g, const RoundingView& q, bool full, int shared_limit, cudaStream_t stream);

// --- quant_compensate.cu
inline constexpr int kColumnBlock = 128;  // columns decided between two products
// y[r][i] = w[r][order[i]].
cudaError_t launch_gather_columns(const float* w, const int* order, int64_t rows, int64_t cols, float* y, cudaStream_t stream);
// GPTQ on columns first .. first + kColumnBlock of `work` (already in order): rounds them into q.codes (in the matrix's own order)
// and leaves in error [rows, kColumnBlock] what the columns behind must take over. factor: upper, [cols, cols].
cudaError_t launch_gptq_block(const float* work, const float* factor, const int* order, int64_t first, const RoundingView& q, float* error,
                              cudaStream_t stream);
// picked [kColumnBlock, cols] = the rows order[first ...] of gram, zero rows behind the last; inner [kColumnBlock, kColumnBlock] its
// columns order[first ...].
cudaError_t launch_pick_rows(const float* gram, const int* order, int64_t first, int64_t cols, float* picked, float* inner,
                             cudaStream_t stream);
// Coordinate descent over those columns, given residual = G e [rows, cols]: changes q.codes; step [rows, kColumnBlock] is the change of
// the weights, by which the residual has to fall.
cudaError_t launch_descent_block(const float* residual, const float* inner, const int* order, int64_t first, const RoundingView& q,
                                 float* step, cudaStream_t stream);
// c [rows, cols] = codes less zero points.
cudaError_t launch_centred_codes(const RoundingView& q, float* c, cudaStream_t stream);
// out[r * out_stride + h] = Σ_j in group h of a[r][j] b[r][j], h < groups; strides of rows lda and ldb.
cudaError_t launch_group_dots(const float* a, int64_t lda, const float* b, int64_t ldb, int64_t rows, int groups, int group, float* out,
                              int64_t out_stride, cudaStream_t stream);
// The scales that fit each row's codes best (quant_compensate.cpp: refit), in place. normal [rows][groups][groups] (h <= g read),
// right [rows][groups]; work: refit_shared_bytes for each of kRefitBlocks blocks, used where that is more than shared_limit.
inline constexpr int kRefitBlocks = 264;
int refit_shared_bytes(int groups);
cudaError_t launch_refit(const float* normal, const float* right, const RoundingView& q, double* work, int shared_limit, cudaStream_t stream);
// Rows where after < best: best = after, and their codes and scales replace those of `kept`.
cudaError_t launch_keep_better(const double* after, double* best, const RoundingView& from, const RoundingView& kept, cudaStream_t stream);

// --- quant_check.cu
struct RowLoss {
  double kl, logprob_source, logprob;
  int same_top;
};
// Of logits [rows, vocab]: KL(p || q), the log-probabilities of targets [rows], and whether both have their maximum at one place.
cudaError_t launch_compare(const float* p_logits, const float* q_logits, int64_t rows, int64_t vocab, const int* targets, RowLoss* losses,
                           cudaStream_t stream);

// --- quant_factor.cu: double precision, column-major lower triangles.
// h[i, j] = g[order[n-1-i], order[n-1-j]] for all i, j, where g is gram with `diagonal` in place of its own.
cudaError_t launch_reversed(const float* gram, const float* diagonal, const int* order, int64_t n, double* h, cudaStream_t stream);
inline constexpr int kFactorBlock = 64;
// The Cholesky factor of the block of at most kFactorBlock columns at h, and in `inverse` [kFactorBlock, kFactorBlock] the factor's
// inverse. *failed becomes 1 where a pivot is not positive.
cudaError_t launch_factor_block(double* h, int64_t ldh, int n, double* inverse, int* failed, cudaStream_t stream);
// Copies the inverse of a diagonal block back into its place.
cudaError_t launch_place_block(double* h, int64_t ldh, int n, const double* inverse, cudaStream_t stream);
// factor[i][j] = l[n-1-i, n-1-j] for j >= i, else 0.
cudaError_t launch_upper_factor(const double* l, int64_t n, float* factor, cudaStream_t stream);
// The diagonal of g [n, n], and g[i][i] = d[i].
cudaError_t launch_read_diagonal(const float* g, int64_t n, float* d, cudaStream_t stream);
cudaError_t launch_write_diagonal(float* g, int64_t n, const float* d, cudaStream_t stream);

}  // namespace awq::cuda
