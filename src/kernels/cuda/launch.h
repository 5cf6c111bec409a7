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

// x [tokens, in], y [tokens, out] with row stride ldy, both fp16 or both bf16, 16-byte aligned.
struct LinearArgs {
  PackedView w;
  const void* x = nullptr;
  void* y = nullptr;
  int tokens = 0;
  int64_t ldy = 0;
  SplitWorkspace split;
  bool overlap = true;  // programmatic dependent launch: see fragments.cuh
};

struct LaunchShape {
  int blocks, threads, cluster;
};

}  // namespace awq::cuda
