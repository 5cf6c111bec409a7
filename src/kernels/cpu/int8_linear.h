// Quantized linears with activations in int8 (Precision::kFast).
#pragma once
#include <memory>

#include "kernels/cpu/int8_table.h"
#include "kernels/linear.h"

namespace awq {

// Whether the int8 kernels take the weight: affine codes, no zero point or an integer one, groups of a
// multiple of 8 columns (or one per row).
bool int8_supports(const QuantWeight& w);
std::unique_ptr<PackedLinear> pack_int8(const QuantWeight& w, Product product,
                                        const simd::Int8Table& table = simd::int8_table());

}  // namespace awq
