#pragma once
#include "kernels/cuda/launch.h"

namespace awq::cuda {

// Rows [16 first_strip, 16 (first_strip + strips)) of W, those that exist, to out [.., in] (fp16 or bf16,
// rounded once).
cudaError_t dequantize_strips(const PackedView& w, int first_strip, int strips, Act act, void* out,
                              cudaStream_t stream);

}  // namespace awq::cuda
