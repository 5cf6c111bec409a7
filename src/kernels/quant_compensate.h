// Private to kernels/: the unit of work of compensate() and its variants per instruction set.
#pragma once
#include <cstdint>

namespace awq::compensation {

constexpr int kLanes = 32;  // rows treated together

struct CompensateTile {
  const float* gram = nullptr;     // [cols, cols], damped
  const float* factor = nullptr;   // [cols, cols] upper, in the order below; null: coordinate descent only
  const int32_t* order = nullptr;  // [cols]
  int64_t cols = 0, group = 0;
  int max_code = 15, sweeps = 0;
};

// w, codes, work [cols][kLanes]; scale, zero [groups][kLanes]; 64-byte aligned. codes enter as the rounding
// to improve and leave improved, lane by lane; start_loss and end_loss [kLanes] are the losses under
// tile.gram before and after. normal_tile: the normal equations of the scales for given codes. With c_g the
// codes less zero point of group g, normal [groups][groups + 1][kLanes] gets c_g G c_h for h <= g and, last,
// c_g G w.
#define AWQ_COMPENSATE_VARIANT(isa)                                                                 \
  namespace isa {                                                                                   \
  void compensate_tile(const CompensateTile& in, float* w, float* scale, float* zero, float* codes, \
                       float* work, float* start_loss, float* end_loss);                            \
  void normal_tile(const CompensateTile& in, float* w, float* zero, float* codes, float* work,      \
                   float* normal);                                                                  \
  }
AWQ_COMPENSATE_VARIANT(portable)
AWQ_COMPENSATE_VARIANT(avx2)
AWQ_COMPENSATE_VARIANT(avx512)
#undef AWQ_COMPENSATE_VARIANT

}  // namespace awq::compensation
