// Quantized linears with activations in int8 (Precision::kFast).
#pragma once
#include <memory>

#include "kernels/cpu/int8_table.h"
#include "kernels/linear.h"

namespace awq {

// Whether the int8 kernels take the weight: affine codes, no zero point or an integer one, groups of a
// multiple of 8 columns (or one per row).
//
// A scheme without activations of its own gets one scale per token and group. With int8 activations (SmoothQuant, Xiao et al.
// 2023) a token has one scale, the largest magnitude / 127; with outliers (LLM.int8, Dettmers et al. 2022) inputs of at least
// the threshold count as zero there, and their products with the dequantized weights are added in fp32, in order of columns.
bool int8_supports(const QuantWeight& w);
std::unique_ptr<PackedLinear> pack_int8(const QuantWeight& w, Product product,
                                        const simd::Int8Table& table = simd::int8_table());

constexpr const char* kInt8Form = "int8/1";
std::unique_ptr<PackedLinear> int8_of(const PackedForm& form, Product product, const std::string& where);

}  // namespace awq
