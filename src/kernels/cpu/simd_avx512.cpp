// The kernels for AVX-512 F, BW, VL and DQ; compiled with those flags.
// GCC 12 reports the deliberately undefined operands inside its own intrinsics (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

#include "kernels/cpu/simd_table.h"

namespace awq::simd {
namespace {
#include "kernels/cpu/vec_avx512.inc"
// Each body builds on the ones before it.
#include "kernels/cpu/body_gemm.inc"
// clang-format off
#include "kernels/cpu/body_gemv.inc"
#include "kernels/cpu/body_rows.inc"
#include "kernels/cpu/body_attention.inc"
#include "kernels/cpu/body_table.inc"
// clang-format on
}  // namespace

const Table& avx512_table() {
  static const Table table = make_table("avx512");
  return table;
}

}  // namespace awq::simd
