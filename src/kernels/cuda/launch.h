// What the host passes to the kernels of a quantized linear, and how they are launched.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/layout.h"

namespace awq::cuda {

enum class Act : uint8_t { kF16, kBF16 };

// Scratch of the products that split a tile's columns over blocks: fp32 partial tiles and a flag per block.
// Flags are zero between launches. One stream uses a workspace at a time.
struct SplitWorkspace {
  float* partials = nullptr;
  uint32_t* flags = nullptr;
};

// What becomes of the sums of a product. kGated: W's strips of 16 rows hold 8 rows of a gate and then the 8 rows of `up` that
// belong to them, and y [tokens, out / 2] = silu(gate) * up, both in fp32. kResidual: ResidualOutput instead of y. kF32: y is fp32.
enum class Output : uint8_t { kAct, kGated, kResidual, kF32 };

// A norm in pieces: what makes a row leaves sums of its squares over parts of it, and behind them the scale it gave x; what reads x
// multiplies its outputs by 1 / rms and divides them by that scale. [tokens][count + 1].
struct NormParts {
  float* sums = nullptr;
  int count = 0;
  AWQ_HOST_DEVICE int stride() const { return count + 1; }
};

// Products of so many tokens take norms in pieces. Beyond, norms are kernels of their own: with pieces 16 sequences were slower.
constexpr int kPieceTokens = 8;

// residual [tokens, out] += sums + bias, x [tokens, out] = residual * gain * scale in the activation type, where scale is 1 / rms of
// `before` (1 without: its sums null), so that x stays near what a norm gives. `after` gets the parts, one for each strip of W.
struct ResidualOutput {
  float* residual = nullptr;
  void* x = nullptr;
  const float *bias = nullptr, *gain = nullptr;  // bias may be null
  NormParts before, after;
};

// x [tokens, in], y [tokens, out] with row stride ldy, both fp16 or both bf16, 16-byte aligned. Of a dense weight (16-bit rows
// [out, in]) `w` has codes, out, in and blocks.
struct LinearArgs {
  PackedView w;
  const void* x = nullptr;
  void* y = nullptr;
  int tokens = 0;
  int64_t ldy = 0;
  SplitWorkspace split;
  bool overlap = true;  // programmatic dependent launch: see fragments.cuh
  Output output = Output::kAct;
  NormParts scaled;         // of x, where it is what a ResidualOutput left
  ResidualOutput residual;  // of kResidual
  float eps = 0;            // of the norms
};

struct LaunchShape {
  int blocks, threads, cluster;
};

}  // namespace awq::cuda
