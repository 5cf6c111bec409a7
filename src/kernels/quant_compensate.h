// Private to kernels/: the unit of work of compensate() and its variants per instruction set.
#pragma once
#include <cstdint>

namespace awq::compensation {

constexpr int kLanes = 32;  // rows treated together

// Columns are numbered in the order in which they are rounded.
struct CompensateTile {
  const float* gram = nullptr;      // [cols, cols], damped
  const float* factor = nullptr;    // [cols, cols] of inverse_factor(gram); null: coordinate descent only
  const int32_t* group = nullptr;   // [cols], the scale group of a column
  const int32_t* member = nullptr;  // [cols], the columns group by group, each group's in ascending order
  int64_t cols = 0, group_size = 0;
  int max_code = 15, sweeps = 0;
};

// w, codes, work, error [cols][kLanes]; scale, zero [groups][kLanes]; 64-byte aligned.
struct TileBuffers {
  float *w, *scale, *zero, *codes, *work, *error;
};

// codes enter as the rounding to improve and leave improved, lane by lane; start_loss and end_loss [kLanes]
// are the losses under tile.gram before and after. normal_tile: the normal equations of the scales for given
// codes. With c_g the codes less zero point of group g, normal [groups][groups + 1][kLanes] gets c_g G c_h
// for h <= g and, last, c_g G w.
#define AWQ_COMPENSATE_VARIANT(isa)                                                                         \
  namespace isa {                                                                                           \
  void compensate_tile(const CompensateTile& in, const TileBuffers& b, float* start_loss, float* end_loss); \
  void normal_tile(const CompensateTile& in, const TileBuffers& b, float* normal);                          \
  }
AWQ_COMPENSATE_VARIANT(portable)
AWQ_COMPENSATE_VARIANT(avx2)
AWQ_COMPENSATE_VARIANT(avx512)
#undef AWQ_COMPENSATE_VARIANT

}  // namespace awq::compensation
