#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/reference.h"

namespace awq::reference {

void gemm_nt(const float* x, int64_t ldx, const float* w, int64_t ldw, float* y, int64_t ldy, int64_t m,
             int64_t n, int64_t k) {
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0;
      for (int64_t c = 0; c < k; ++c) sum += double{x[i * ldx + c]} * double{w[j * ldw + c]};
      y[i * ldy + j] = static_cast<float>(sum);
    }
}

namespace {

// One token as a linear with int8 activations sees it.
void round_token(float* x, int64_t n, const Scheme& scheme) {
  const auto outlier = [&](float v) {
    return scheme.activations == Activations::kInt8Outliers && std::fabs(v) >= scheme.outlier_threshold;
  };
  float largest = 0;
  for (int64_t k = 0; k < n; ++k)
    if (!outlier(x[k])) largest = std::max(largest, std::fabs(x[k]));
  const float scale = largest / 127;
  for (int64_t k = 0; k < n; ++k)
    if (!outlier(x[k])) x[k] = scale > 0 ? std::nearbyint(x[k] * (1.0f / scale)) * scale : 0.0f;
}

}  // namespace

void linear(const Tensor& w, const float* x, int64_t tokens, float* y, int64_t ldy) {
  const Tensor dense = w.to_f32();
  gemm_nt(x, w.dim(1), dense.f32(), w.dim(1), y, ldy, tokens, w.dim(0), w.dim(1));
}

void linear(const QuantWeight& w, const float* x, int64_t tokens, float* y, int64_t ldy) {
  std::vector<float> dense(static_cast<size_t>(w.rows * w.cols));
  dequantize(w, dense.data());
  std::vector<float> seen(x, x + tokens * w.cols);
  if (w.scheme.activations != Activations::kFloat)
    for (int64_t t = 0; t < tokens; ++t) round_token(seen.data() + t * w.cols, w.cols, w.scheme);
  gemm_nt(seen.data(), w.cols, dense.data(), w.cols, y, ldy, tokens, w.rows, w.cols);
}

void gram_accumulate(const float* x, int64_t ldx, int64_t tokens, int64_t k, float* g) {
  for (int64_t i = 0; i < k; ++i)
    for (int64_t j = 0; j < k; ++j) {
      double sum = 0;
      for (int64_t t = 0; t < tokens; ++t) sum += double{x[t * ldx + i]} * double{x[t * ldx + j]};
      g[i * k + j] = static_cast<float>(double{g[i * k + j]} + sum);
    }
}

void gram_loss_rows(const float* e, int64_t rows, int64_t k, const float* g, double* loss) {
  for (int64_t r = 0; r < rows; ++r) {
    loss[r] = 0;
    for (int64_t i = 0; i < k; ++i) {
      double sum = 0;
      for (int64_t j = 0; j < k; ++j) sum += double{e[r * k + j]} * double{g[i * k + j]};
      loss[r] += double{e[r * k + i]} * sum;
    }
  }
}

}  // namespace awq::reference
