// Random packed weights, activations and a reference in double, made on the device: matrices here are too
// large for the host.
#pragma once
#include <cstdint>

#include "kernels/cuda/launch.h"

namespace awq::bench {

void fill_bits(void* data, int64_t bytes, uint64_t seed);
// fp16 scales between 20 and 220 and random zero points in the layout of layout.h, for so many panels x groups.
void fill_scales(cuda::Format format, void* data, int64_t blocks, uint64_t seed);
void fill_normal(void* fp16, int64_t count, uint64_t seed);

constexpr int kSampledTokens = 8;
// ref [sampled, out] in double: rows `tokens` of x times the packed weight, decoded by an index of its own.
void reference(const cuda::PackedView& w, const void* x, const int* tokens, int sampled, double* ref);
// sums[0] += |y - ref|^2, sums[1] += |ref|^2 over the sampled tokens; sums[2] += how many of y's numbers are
// NaN.
void compare(const void* y, int64_t tokens, int out, const double* ref, const int* sampled_tokens,
             int sampled, double* sums);
// Reads all of `bytes`, for the rate that memory allows.
void read_all(const void* data, int64_t bytes, void* sink, cudaStream_t stream);

}  // namespace awq::bench
