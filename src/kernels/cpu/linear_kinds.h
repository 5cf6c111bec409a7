// Private to kernels/cpu: kinds of quantized linears besides the interleaved one of linear.cpp.
#pragma once
#include <memory>

#include "kernels/linear.h"

namespace awq {

// Codes that are no multiples of a scale (nf4) or have real zeros: 4 bits or 8 resident, dequantized panel by
// panel.
std::unique_ptr<PackedLinear> table_linear(const QuantWeight& w, bool bf16);
// Quantizes each token, then multiplies integers with the kernel of the scheme without activations.
std::unique_ptr<PackedLinear> int8_activation_linear(const QuantWeight& w, Precision precision);

}  // namespace awq
