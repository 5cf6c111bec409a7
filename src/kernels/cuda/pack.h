// From the exchange form to the layout that the kernels read (layout.h); on the host, without a GPU.
#pragma once
#include <cstddef>
#include <optional>
#include <vector>

#include "kernels/cuda/layout.h"
#include "weights/quant_weight.h"

namespace awq::cuda {

struct PackedHost {
  PackedView view;  // pointers empty
  std::vector<std::byte> codes, scales;
};

// The form that the kernels of packed weights read, if they take this one: affine codes of 2 to 8 bits (up to 4 in each 4, others in each
// 8) with integer zero points or none, or NF4; groups of 32 or of a multiple of 64 columns, or one for a row; out and in at most 2^24.
// Only 8-bit codes may be meant for int8 inputs: they see inputs as they are.
std::optional<Format> packed_format(const QuantWeight& w);

// fp16 and bf16 scales are kept exactly (subnormal ones within 2^-24 of the largest); fp32 ones are rounded to 11 bits. Throws
// kUnsupported naming what was found where there is no packed_format.
PackedHost pack_host(const QuantWeight& w);

}  // namespace awq::cuda
