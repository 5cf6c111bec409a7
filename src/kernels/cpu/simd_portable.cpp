// The kernels for any machine; also the reference path of AWQ_ISA=portable.
#include "base/half.h"
#include "kernels/cpu/simd_table.h"

namespace awq::simd {
namespace {
#include "kernels/cpu/vec_portable.inc"
// Each body builds on the ones before it.
#include "kernels/cpu/body_gemm.inc"
// clang-format off
#include "kernels/cpu/body_gemv.inc"
#include "kernels/cpu/body_rows.inc"
#include "kernels/cpu/body_attention.inc"
#include "kernels/cpu/body_table.inc"
// clang-format on
}  // namespace

const Table& portable_table() {
  static const Table table = make_table("portable");
  return table;
}

}  // namespace awq::simd
