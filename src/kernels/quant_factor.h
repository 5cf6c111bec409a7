// Private to kernels/: the triangular factor that error compensation reads, blocked, in double precision.
#pragma once
#include <cstdint>

namespace awq {

// For a positive definite h [k, k] the factor U, upper, with UᵀU = h⁻¹, written transposed: factor[j * k + i]
// = U[i][j] for i <= j, zero elsewhere. Same bits for any number of threads. False when h is not positive
// definite in double precision.
bool inverse_factor(const float* h, int64_t k, float* factor);

namespace factor {

constexpr int kRows = 8, kCols = 16;  // of a tile

// c [kRows][kCols] (row stride ldc) -= the sum over p < depth of a[p][kRows]ᵀ b[p][kCols]; b 64-byte aligned.
#define AWQ_FACTOR_VARIANT(isa)                                                                   \
  namespace isa {                                                                                 \
  void subtract_product(const double* a, const double* b, int64_t depth, double* c, int64_t ldc); \
  }
AWQ_FACTOR_VARIANT(portable)
AWQ_FACTOR_VARIANT(avx2)
AWQ_FACTOR_VARIANT(avx512)
#undef AWQ_FACTOR_VARIANT

}  // namespace factor
}  // namespace awq
