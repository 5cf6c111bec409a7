// Private to kernels/cpu: kinds of quantized linears besides the interleaved one of linear.cpp.
#pragma once
#include <memory>
#include <string>

#include "kernels/linear.h"

namespace awq {

// A form that was kept (PackedForm) is refused unless every size fits.
inline void require_form(bool ok, const std::string& where, const char* what) {
  if (!ok) fail(Code::kBadFile, "{}: {} of a packed linear does not fit it", where, what);
}

// Quantizes each token, then multiplies integers with the kernel of the scheme without activations.
std::unique_ptr<PackedLinear> int8_activation_linear(const QuantWeight& w, Precision precision, Product product);

}  // namespace awq
