// The blocked matrix product Y = X Wᵀ behind every linear layer with more than a few tokens. Weights come
// in any stored form through PanelSource, which writes them as dense panels of the microkernel's width.
#pragma once
#include <cstdint>

#include "kernels/cpu/simd_table.h"

namespace awq {

class PanelSource {
 public:
  virtual ~PanelSource() = default;
  // Rows [panel * nr, (panel + 1) * nr) of W, columns [k0, k0 + kn): out[step][nr], rows beyond n zero. A
  // step is one column in fp32, a pair of columns in bf16 (then k0 is even).
  virtual void pack(int64_t panel, int64_t k0, int64_t kn, float* out) const = 0;
};

// y [m, n] (row stride ldy) = x [m, k] (row stride ldx) Wᵀ. The sum over k is formed in float per block of at
// most 256 columns, the blocks added in order; blocks depend on k alone, so results do not depend on m, n or
// threads.
void gemm(const simd::Table& t, bool bf16, const PanelSource& w, const float* x, int64_t ldx, int64_t m,
          int64_t n, int64_t k, float* y, int64_t ldy);

// Row-major weights [n, k] with row stride ld, in elements.
class DensePanels : public PanelSource {
 public:
  DensePanels(const simd::Table& t, bool bf16, simd::Elem elem, const void* w, int64_t ld, int64_t n)
      : table_(t), bf16_(bf16), elem_(elem), w_(static_cast<const char*>(w)), ld_(ld), n_(n) {}
  void pack(int64_t panel, int64_t k0, int64_t kn, float* out) const override;

 private:
  const simd::Table& table_;
  bool bf16_;
  simd::Elem elem_;
  const char* w_;
  int64_t ld_, n_;
};

class QuantPanels : public PanelSource {
 public:
  QuantPanels(const simd::Table& t, bool bf16, const simd::QuantView& w, int64_t row_blocks)
      : table_(t), bf16_(bf16), w_(w), row_blocks_(row_blocks) {}
  void pack(int64_t panel, int64_t k0, int64_t kn, float* out) const override;

 private:
  const simd::Table& table_;
  bool bf16_;
  const simd::QuantView& w_;
  int64_t row_blocks_;
};

// Rows of a row-major weight against 1 to a few tokens: reads each weight once per 8 tokens.
void gemv_dense(const simd::Table& t, simd::Elem elem, const void* w, int64_t ldw, int64_t n, int64_t k,
                const float* x, int64_t ldx, int64_t tokens, float* y, int64_t ldy);

}  // namespace awq
