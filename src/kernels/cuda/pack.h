// From the exchange form to the layout that the kernels read (layout.h); on the host, without a GPU.
#pragma once
#include <cstddef>
#include <vector>

#include "kernels/cuda/layout.h"
#include "weights/quant_weight.h"

namespace awq::cuda {

struct PackedHost {
  PackedView view;  // pointers empty
  std::vector<std::byte> codes, scales;
};

// Affine codes of 2 to 4 bits, each in 4, with integer zero points or none, groups of 32 or multiples of 64 columns; out and in at
// most 2^24. fp16 and bf16 scales are kept exactly (subnormal ones within 2^-24 of the largest); fp32 ones
// are rounded to 11 bits. Throws kUnsupported naming what was found.
PackedHost pack_host(const QuantWeight& w);

}  // namespace awq::cuda
