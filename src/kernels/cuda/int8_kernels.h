// Products of int8 weights and int8 inputs: what the host passes, and the kernels. q_x [tokens, in] with a scale per token, q_w
// [out, in] with a scale per output, 32-bit sums; y [tokens, ldy] = s_x s_w sums, in the activation type.
#pragma once
#include <cuda.h>

#include "kernels/cuda/launch.h"

namespace awq::cuda {

struct Int8Args {
  const int8_t* w = nullptr;
  const float* w_scales = nullptr;  // [out, padded to kInt8Outs]
  int out = 0, in = 0;              // in: a multiple of 16
  const int8_t* x = nullptr;
  const float* x_scales = nullptr;
  int tokens = 0;
  void* y = nullptr;
  int64_t ldy = 0;
  bool gated = false;  // Output::kGated; else kAct
};

constexpr int kInt8Tokens = 128, kInt8Outs = 256, kInt8Depth = 128;  // of a tile of int8_sm90.cu, and its stages' columns
constexpr int kInt8FewTokens = 8;

// x [tokens, in] to integers -127..127 of the scale max|x| / 127 of each token; in is a multiple of 8.
cudaError_t launch_round_tokens(Act act, const void* x, int tokens, int in, int8_t* q, float* scales, cudaStream_t stream);
// At most kInt8FewTokens tokens, not gated: limited by reading the weight.
cudaError_t launch_int8_gemv(Act act, const Int8Args& args, cudaStream_t stream);
// Hopper, any number of tokens. Maps (tensor_map.h) in boxes of kInt8Tokens and kInt8Outs rows.
cudaError_t launch_int8_sm90(Act act, const Int8Args& args, const CUtensorMap& x_map, const CUtensorMap& w_map, int processors,
                             cudaStream_t stream);
// y from sums [tokens, out] that were formed elsewhere, not gated.
cudaError_t launch_int8_scale(Act act, const int32_t* sums, const Int8Args& args, cudaStream_t stream);

}  // namespace awq::cuda
