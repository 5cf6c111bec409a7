// The heavy operations of quantization, on the Gram matrix G = XᵀX of a linear's inputs X [tokens, k]:
// for any candidate Ŵ of W the output error is ‖X (W − Ŵ)ᵀ‖² = tr(E G Eᵀ) with E = W − Ŵ, so that no
// candidate needs the tokens again. Deterministic for any number of threads.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "weights/quant_weight.h"

namespace awq {

// g [k, k] += xᵀ x; x [tokens, k] with row stride ldx. Sums are formed in float per fixed chunk of 256 tokens
// and the chunks added in order, so the result depends only on the sequence of calls. Both triangles are
// written. With bf16 = true x is rounded to bfloat16 first where the machine has bf16 products (ignored
// elsewhere).
void gram_accumulate(const float* x, int64_t ldx, int64_t tokens, int64_t k, float* g, bool bf16);

// loss[n] = e[n] G e[n]ᵀ for each row of e [rows, k]; g [k, k] symmetric. The product E·G is fp32, sums are
// double. With bf16 = true both factors are rounded to bfloat16 first where the machine has bf16 products
// (ignored elsewhere): within a few parts in ten thousand, for comparing candidates.
void gram_loss_rows(const float* e, int64_t rows, int64_t k, const float* g, double* loss, bool bf16 = false);
// Their sum, tr(E G Eᵀ); of many rows as <Eᵀ E, G>, with EᵀE as gram_accumulate forms it (rounded to bfloat16 only e is).
double gram_loss(const float* e, int64_t rows, int64_t k, const float* g, bool bf16 = false);

// w [rows, cols]: column k times s[k].
void multiply_columns(float* w, int64_t rows, int64_t cols, const float* s);
// e [rows, cols] = w - Q.
void rounding_error(const float* w, const QuantWeight& q, float* e);

// Round to nearest on the range [min(w), max(w)] of each group, 0 always inside; the scale is rounded to
// scale_dtype before the codes are formed: s = (max - min) / max_code, z = clamp(round(-min / s)), q =
// clamp(round(w / s + z)). Symmetric: s = max|w| / (2^(bits-1) - 1/2), z = 2^(bits-1). w [rows, cols]. Throws
// kBadArgument when the group does not divide cols.
QuantWeight quantize_minmax(const float* w, int64_t rows, int64_t cols, const Scheme& scheme,
                            DType scale_dtype);

// Symmetric rounding to a scale of max|w| / (2^(bits-1) - 1) per group, so that the largest weight is a code
// itself and the codes are -127..127 for 8 bits: what int8 products and LLM.int8 use. scheme.zero must be
// kNone.
QuantWeight quantize_absmax(const float* w, int64_t rows, int64_t cols, const Scheme& scheme,
                            DType scale_dtype);
// NF4 as bitsandbytes does it: the scale of a group is max|w| in F32, codes are the nearest of kNf4Values to
// w / scale.
QuantWeight quantize_nf4(const float* w, int64_t rows, int64_t cols, const Scheme& scheme);

enum class RangeEffort : uint8_t {
  kAwqClip,  // AutoAWQ's clip: both ends limited to c = (1 - i/20) * max|w|, i = 0..9
  kFull,     // the above, then independent moves of both ends, zero point and closed-form scale ("free,
             // asymmetric")
};
// For every row and group the scale and integer zero that minimise e B eᵀ, with B the group's diagonal block
// of the Gram matrix g [cols, cols] and e the rounding error of that row's group. Candidates are accepted
// only when strictly better than the ones before, so kFull is never worse than kAwqClip, and that never worse
// than quantize_minmax.
QuantWeight range_search(const float* w, int64_t rows, int64_t cols, const Scheme& scheme, DType scale_dtype,
                         const float* g, RangeEffort effort);

// e [rows, cols] = w - Q(w c) / c with c = channel_scale [cols] and Q as quantize_minmax: the error of one
// candidate of the scale search, in the unscaled space, so that the loss of every candidate reads the same
// Gram matrix.
void minmax_error(const float* w, int64_t rows, int64_t cols, const Scheme& scheme, DType scale_dtype,
                  const float* channel_scale, float* e);

// Error compensation: codes are chosen so that the errors of a row cancel under G, zero points stay. GPTQ
// (Frantar et al. 2023) with static groups and columns in order of activation - which needs no g_idx on disk
// - then coordinate descent over the codes, then by turns the scales of all groups of a row fitted together
// to its codes and the codes to the scales. The factorization is shared by all linears that read the same
// inputs.
class Compensation {
 public:
  // g [cols, cols]; `damping` times its mean diagonal is added to the diagonal (ten times as much, and so on,
  // until the matrix is positive definite).
  Compensation(const float* g, int64_t cols, double damping);
  ~Compensation();
  Compensation(Compensation&&) noexcept;
  // w [rows, cols]; changes q's codes, and with refits > 0 its scales, in the rows where the damped loss
  // falls, so q is never worse under it. sweeps: passes of coordinate descent after each step; refits: turns
  // of the scales.
  void improve(const float* w, int sweeps, int refits, QuantWeight& q) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace awq
