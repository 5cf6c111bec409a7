// The kernels for AVX2 with FMA and F16C; compiled with those flags.
#include <immintrin.h>

#include "kernels/cpu/simd_table.h"

namespace awq::simd {
namespace {
#include "kernels/cpu/vec_avx2.inc"
// Each body builds on the ones before it.
#include "kernels/cpu/body_gemm.inc"
// clang-format off
#include "kernels/cpu/body_gemv.inc"
#include "kernels/cpu/body_rows.inc"
#include "kernels/cpu/body_attention.inc"
#include "kernels/cpu/body_table.inc"
// clang-format on
}  // namespace

const Table& avx2_table() {
  static const Table table = make_table("avx2");
  return table;
}

}  // namespace awq::simd
