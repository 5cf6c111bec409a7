// The operations of a backward pass through a decoder block, beside those of the forward pass in ops.h:
// row-major float32, the same bits for any number of threads, no allocation after warm-up beyond thread-local
// scratch.
#pragma once
#include <cstdint>
#include <span>

#include "kernels/ops.h"

namespace awq {

// Products y [m, n]; every matrix has a row stride. With bf16 = true both factors are rounded to bfloat16
// first where the machine has bf16 products (ignored elsewhere); sums are float, in blocks of at most 256 of
// k, added in order.
struct MatrixView {
  const float* data;
  int64_t ld;
};
void product_nt(MatrixView x, MatrixView w, float* y, int64_t ldy, int64_t m, int64_t n, int64_t k,
                bool bf16);  // x [m, k], w [n, k]
void product_nn(MatrixView x, MatrixView w, float* y, int64_t ldy, int64_t m, int64_t n, int64_t k,
                bool bf16);  // x [m, k], w [k, n]
void product_tn(MatrixView x, MatrixView w, float* y, int64_t ldy, int64_t m, int64_t n, int64_t k,
                bool bf16);  // x [k, m], w [k, n]

// Of rms_norm (weight_offset 0) over each of `heads` vectors of a row: x, dy, dx [tokens, heads, dim] with
// row strides. dy is the loss's gradient for the outputs, dx becomes that for the inputs; dx may be dy.
void rms_norm_backward(MatrixView x, const float* weight, float eps, MatrixView dy, int64_t tokens,
                       int64_t heads, int64_t dim, float* dx, int64_t lddx);

// Of silu_mul: gate_up and d_gate_up [tokens, 2*dim], dy [tokens, dim].
void silu_mul_backward(const float* gate_up, const float* dy, int64_t tokens, int64_t dim, float* d_gate_up);

// Of attention_dense: q, k, v as there, dy [tokens, heads * head_dim]. dq has the shape of q with row stride
// lddq; dk, dv those of k, v with row stride lddkv; all are overwritten. The weights are formed anew, for 128
// queries at a time (as in FlashAttention's backward pass, Dao et al. 2022).
void attention_backward(const AttentionShape& shape, std::span<const SpanView> spans, const float* q,
                        int64_t ldq, const float* k, const float* v, int64_t ldkv, const float* dy, float* dq,
                        int64_t lddq, float* dk, float* dv, int64_t lddkv);

}  // namespace awq
