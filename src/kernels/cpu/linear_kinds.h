// Private to kernels/cpu: kinds of quantized linears besides the interleaved one of linear.cpp.
#pragma once
#include <memory>

#include "kernels/linear.h"

namespace awq {

// Quantizes each token, then multiplies integers with the kernel of the scheme without activations.
std::unique_ptr<PackedLinear> int8_activation_linear(const QuantWeight& w, Precision precision, Product product);

}  // namespace awq
