// Search for NaN and infinity at memory speed.
#pragma once
#include <cstddef>
#include <cstdint>

#include "tensor/tensor.h"

namespace awq {

// Index of the first NaN or infinity among n elements at `data` (any alignment), or -1. Integers have none.
int64_t first_non_finite(DType dtype, const std::byte* data, int64_t n);

}  // namespace awq
