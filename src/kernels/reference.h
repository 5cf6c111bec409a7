// Slow versions of the kernels with the same meaning: plain loops, sums in double, one thread. The tests
// compare every instruction-set path against these.
#pragma once
#include <cstdint>
#include <span>

#include "kernels/ops.h"
#include "weights/quant_weight.h"

namespace awq::reference {

void rms_norm(const float* x, const float* weight, float weight_offset, float eps, int64_t tokens,
              int64_t dim, float* y);
void silu_mul(const float* gate_up, int64_t tokens, int64_t dim, float* y);
void gelu_mul(const float* gate_up, int64_t tokens, int64_t dim, float* y);
void softcap(float* x, float cap, int64_t n);
void embed(const Tensor& table, std::span<const int32_t> ids, float* y);
void rope(float* x, int64_t ldx, int64_t tokens, int64_t heads, int64_t head_dim,
          std::span<const int32_t> positions, std::span<const double> inv_freq, float magnitude);
void log_softmax_gather(const float* logits, int64_t tokens, int64_t vocab, const int32_t* target,
                        double* logprob);
void kl_divergence(const float* p_logits, const float* q_logits, int64_t tokens, int64_t vocab, double* kl,
                   uint8_t* same_top);

void kv_write(const KvLayerView& cache, std::span<const SpanView> spans, const float* k, const float* v,
              int64_t ld);
void attention_paged(const AttentionShape& shape, const KvLayerView& cache, std::span<const SpanView> spans,
                     const float* q, int64_t ldq, float* y);
void attention_dense(const AttentionShape& shape, std::span<const SpanView> spans, const float* q,
                     int64_t ldq, const float* k, const float* v, int64_t ldkv, float* y);

void gemm_nt(const float* x, int64_t ldx, const float* w, int64_t ldw, float* y, int64_t ldy, int64_t m,
             int64_t n, int64_t k);
// y [tokens, out] (row stride ldy) = x Wᵀ for a dense (F32, F16, BF16) or quantized W.
void linear(const Tensor& w, const float* x, int64_t tokens, float* y, int64_t ldy);
void linear(const QuantWeight& w, const float* x, int64_t tokens, float* y, int64_t ldy);

void gram_accumulate(const float* x, int64_t ldx, int64_t tokens, int64_t k, float* g);
void gram_loss_rows(const float* e, int64_t rows, int64_t k, const float* g, double* loss);

}  // namespace awq::reference
