// The compiled kernels of packed linears, in the order in which pick.cpp and the benchmark name them. Which
// one runs is decided in pick.cpp alone.
#pragma once
#include <cuda.h>

#include <iterator>
#include <span>

#include "kernels/cuda/gemm_plan.h"
#include "kernels/cuda/launch.h"

namespace awq::cuda {

// gemv.cuh: up to `tokens` tokens; strips and warps of a block, units in flight per warp, blocks sharing rows
// (2: Hopper).
struct GemvConfig {
  int tokens, strips, warps, depth, split;
};
inline constexpr GemvConfig kGemvConfigs[] = {
    {1, 1, 16, 2, 1}, {1, 2, 16, 2, 1}, {1, 2, 8, 2, 1},                   // 0 1 2
    {2, 2, 8, 4, 1},  {2, 4, 8, 3, 1},  {2, 4, 8, 3, 2},                   // 3 4 5
    {4, 4, 8, 3, 1},  {4, 4, 8, 3, 2},  {8, 4, 8, 3, 1}, {8, 4, 8, 3, 2},  // 6 7 8 9
    {16, 4, 8, 2, 1}, {16, 4, 8, 2, 2},                                    // 10 11
};
// Of 8-bit codes: with half the strips as many bytes are in flight.
inline constexpr GemvConfig kGemv8Configs[] = {
    {1, 1, 16, 2, 1}, {1, 1, 8, 2, 1},  {2, 1, 8, 4, 1},  {2, 2, 8, 3, 1},  // 0 1 2 3
    {4, 2, 8, 2, 1},  {4, 2, 8, 2, 2},  {8, 2, 8, 2, 1},  {8, 2, 8, 2, 2},  // 4 5 6 7
    {16, 2, 8, 2, 1}, {16, 2, 8, 2, 2}, {16, 4, 8, 2, 1},                   // 8 9 10
};
constexpr std::span<const GemvConfig> gemv_configs(Format format) {
  return format == Format::kAffine8 ? std::span<const GemvConfig>(kGemv8Configs) : std::span<const GemvConfig>(kGemvConfigs);
}
constexpr int gemv_count(Format format) { return static_cast<int>(gemv_configs(format).size()); }

// gemm_sm90.cuh: tokens per tile, blocks of 64 columns per stage, stages.
struct GemmConfig {
  int tokens, blocks, stages;
};
inline constexpr GemmConfig kGemmConfigs[] = {{16, 2, 14}, {32, 2, 10}, {64, 2, 7}, {128, 2, 4}, {256, 1, 4}};
inline constexpr int kGemmCount = std::size(kGemmConfigs);
// Of 8-bit codes: the same tiles, in the stages that fit.
inline constexpr GemmConfig kGemm8Configs[kGemmCount] = {{16, 2, 10}, {32, 2, 8}, {64, 2, 6}, {128, 1, 7}, {256, 1, 3}};
constexpr std::span<const GemmConfig, kGemmCount> gemm_configs(Format format) {
  return format == Format::kAffine8 ? std::span(kGemm8Configs) : std::span(kGemmConfigs);
}
// The same kernel with a dense W, in the invariant mode.
inline constexpr GemmConfig kDenseGemmConfigs[] = {{16, 1, 12}, {64, 1, 8}, {256, 1, 3}};
inline constexpr int kDenseGemmCount = std::size(kDenseGemmConfigs);

// Shared memory of a block of one of gemv_configs(w.format); what a device must offer for the kernel to run.
int gemv_shared_bytes(int config, const PackedView& w);
// gemv_dense.cuh: up to kDenseTokens tokens; w.codes are rows of 16-bit numbers.
constexpr int kDenseTokens = 8;
int gemv_dense_shared_bytes(int tokens);
cudaError_t launch_gemv_dense(Act act, const LinearArgs& args, int processors, cudaStream_t stream);
cudaError_t launch_gemv(int config, Act act, const LinearArgs& args, cudaStream_t stream);
// One of gemm_configs(args.w.format); codes_map in boxes of its blocks, x_map of its tokens (tensor_map.h).
cudaError_t launch_gemm_sm90(int config, Act act, const LinearArgs& args, const GemmPlan& plan,
                             const CUtensorMap& codes_map, const CUtensorMap& x_map, cudaStream_t stream);
// w_map: rows as tensor_map.h describes activations, in boxes of kPanelRows. Not gated.
cudaError_t launch_gemm_dense_sm90(int config, Act act, const LinearArgs& args, const GemmPlan& plan, const CUtensorMap& w_map,
                                   const CUtensorMap& x_map, cudaStream_t stream);

// Per activation type and format (affine 4-bit codes where none is named), each compiled in a file of its own.
using LaunchGemv = cudaError_t(int config, const LinearArgs& args, cudaStream_t stream);
LaunchGemv launch_gemv_f16, launch_gemv_bf16, launch_gemv_w8_f16, launch_gemv_w8_bf16, launch_gemv_nf4_f16, launch_gemv_nf4_bf16;
using LaunchGemm = cudaError_t(int config, const LinearArgs& args, const GemmPlan& plan, const CUtensorMap& codes_map,
                               const CUtensorMap& x_map, cudaStream_t stream);
LaunchGemm launch_gemm_sm90_f16, launch_gemm_sm90_bf16, launch_gemm_sm90_w8_f16, launch_gemm_sm90_w8_bf16, launch_gemm_sm90_nf4_f16,
    launch_gemm_sm90_nf4_bf16;

}  // namespace awq::cuda
