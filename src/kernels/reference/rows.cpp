#include <algorithm>
#include <cmath>
#include <numbers>

#include "kernels/reference.h"

namespace awq::reference {

void rms_norm(const float* x, const float* weight, float weight_offset, float eps, int64_t tokens,
              int64_t dim, float* y) {
  for (int64_t t = 0; t < tokens; ++t) {
    double sum = 0;
    for (int64_t i = 0; i < dim; ++i) sum += double{x[t * dim + i]} * double{x[t * dim + i]};
    const double r = 1.0 / std::sqrt(sum / static_cast<double>(dim) + double{eps});
    for (int64_t i = 0; i < dim; ++i)
      y[t * dim + i] =
          static_cast<float>(double{x[t * dim + i]} * r * (double{weight[i]} + double{weight_offset}));
  }
}

void silu_mul(const float* gate_up, int64_t tokens, int64_t dim, float* y) {
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t i = 0; i < dim; ++i) {
      const double gate = gate_up[t * 2 * dim + i], up = gate_up[t * 2 * dim + dim + i];
      y[t * dim + i] = static_cast<float>(gate / (1.0 + std::exp(-gate)) * up);
    }
}

void gelu_mul(const float* gate_up, int64_t tokens, int64_t dim, float* y) {
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t i = 0; i < dim; ++i) {
      const double gate = gate_up[t * 2 * dim + i], up = gate_up[t * 2 * dim + dim + i];
      const double z = std::sqrt(2 / std::numbers::pi) * (gate + 0.044715 * gate * gate * gate);
      y[t * dim + i] = static_cast<float>(0.5 * gate * (1 + std::tanh(z)) * up);
    }
}

void softcap(float* x, float cap, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] = static_cast<float>(double{cap} * std::tanh(double{x[i]} / double{cap}));
}

void embed(const Tensor& table, std::span<const int32_t> ids, float* y) {
  const int64_t dim = table.dim(1), bytes = dim * dtype_size(table.dtype());
  for (size_t i = 0; i < ids.size(); ++i)
    convert_to_f32(table.dtype(), table.bytes() + ids[i] * bytes, y + i * dim, dim);
}

void rope(float* x, int64_t ldx, int64_t tokens, int64_t heads, int64_t head_dim,
          std::span<const int32_t> positions, std::span<const double> inv_freq, float magnitude) {
  const int64_t half = static_cast<int64_t>(inv_freq.size());
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t h = 0; h < heads; ++h)
      for (int64_t i = 0; i < half; ++i) {
        float* a = x + t * ldx + h * head_dim + i;
        const double angle = static_cast<double>(positions[t]) * inv_freq[i];
        const double c = std::cos(angle) * double{magnitude}, s = std::sin(angle) * double{magnitude};
        const double low = a[0], high = a[half];
        a[0] = static_cast<float>(low * c - high * s);
        a[half] = static_cast<float>(high * c + low * s);
      }
}

namespace {
// ln sum e^x
double log_sum_exp(const float* x, int64_t n) {
  const double top = *std::max_element(x, x + n);
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += std::exp(double{x[i]} - top);
  return top + std::log(sum);
}
}  // namespace

void log_softmax_gather(const float* logits, int64_t tokens, int64_t vocab, const int32_t* target,
                        double* logprob) {
  for (int64_t t = 0; t < tokens; ++t)
    logprob[t] = double{logits[t * vocab + target[t]]} - log_sum_exp(logits + t * vocab, vocab);
}

void kl_divergence(const float* p_logits, const float* q_logits, int64_t tokens, int64_t vocab, double* kl,
                   uint8_t* same_top) {
  for (int64_t t = 0; t < tokens; ++t) {
    const float* p = p_logits + t * vocab;
    const float* q = q_logits + t * vocab;
    const double zp = log_sum_exp(p, vocab), zq = log_sum_exp(q, vocab);
    kl[t] = 0;
    for (int64_t i = 0; i < vocab; ++i) {
      const double lp = double{p[i]} - zp, lq = double{q[i]} - zq;
      kl[t] += std::exp(lp) * (lp - lq);
    }
    same_top[t] = std::max_element(p, p + vocab) - p == std::max_element(q, q + vocab) - q;
  }
}

}  // namespace awq::reference
