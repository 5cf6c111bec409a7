// Measured on an H100 over the shapes of docs/benchmarks.md; bench/cuda/linear_bench.cpp prints every
// configuration beside the picked one. Those for 8-bit codes and NF4 follow the same thoughts and were not measured yet.
#include "kernels/cuda/pick.h"

#include <algorithm>
#include <span>

namespace awq::cuda {
namespace {

// Longer sums than this are worth sharing between two blocks (units of 128 columns).
constexpr int kLongUnits = 64;

int gemv_config(const DeviceTraits& device, const PackedView& w, int64_t tokens) {
  const int strips = w.strips(), units = w.blocks / 2, processors = device.multiprocessors;
  if (tokens == 1) {
    if (strips <= 2 * processors) return 0;
    return strips <= 4 * processors || units >= kLongUnits ? 1 : 2;
  }
  const bool few = strips / 4 <= processors;
  const bool split = few && units >= kLongUnits && device.hopper;
  if (tokens <= 2) return split ? 5 : few ? 3 : 4;
  if (tokens <= 4) return split ? 7 : 6;
  if (tokens <= 8) return split ? 9 : 8;
  return split ? 11 : 10;
}

int gemv8_config(const DeviceTraits& device, const PackedView& w, int64_t tokens) {
  const int strips = w.strips(), units = w.blocks / 2, processors = device.multiprocessors;
  if (tokens == 1) return strips <= 4 * processors || units >= kLongUnits ? 0 : 1;
  const bool few = strips / 2 <= processors;
  const bool split = few && units >= kLongUnits && device.hopper;
  if (tokens <= 2) return few ? 2 : 3;
  if (tokens <= 4) return split ? 5 : 4;
  if (tokens <= 8) return split ? 7 : 6;
  return device.hopper && strips / 4 > processors ? 10 : split ? 9 : 8;
}

int gemm_config(const PackedView& w, int64_t tokens) {
  for (int i = 0; i < kGemmCount - 1; ++i)
    if (tokens <= kGemmConfigs[i].tokens) return i;  // of every format
  // Tiles of 256 tokens read less of x, of 128 fill the device sooner.
  const int64_t tiles = w.panels() * ((tokens + 255) / 256);
  return tiles >= 96 || w.in >= 8192 ? kGemmCount - 1 : kGemmCount - 2;
}

// GEMVs whose warps share out the columns alike, by tokens: they differ in how many columns the tokens fill of one instruction.
constexpr int kAlikeGemvs[] = {2, 3, 6, 8, 10}, kAlikeGemv8s[] = {1, 2, 4, 6, 8};
constexpr std::span<const int> alike_gemvs(Format f) {
  return f == Format::kAffine8 ? std::span<const int>(kAlikeGemv8s) : std::span<const int>(kAlikeGemvs);
}
constexpr bool are_alike(Format f) {
  return std::ranges::all_of(alike_gemvs(f), [f](int i) { return gemv_configs(f)[i].warps == 8 && gemv_configs(f)[i].split == 1; });
}
static_assert(are_alike(Format::kAffine4) && are_alike(Format::kAffine8) && are_alike(Format::kNf4));

Choice alike_gemv(const DeviceTraits& device, const PackedView& w, int64_t tokens) {
  Choice choice;
  choice.way = Way::kGemv;
  for (const int i : alike_gemvs(w.format)) {
    if (gemv_shared_bytes(i, w) > device.shared_bytes) break;
    choice.config = i, choice.tokens = static_cast<int>(std::min<int64_t>(tokens, gemv_configs(w.format)[i].tokens));
    if (choice.tokens == tokens) break;
  }
  return choice;
}

// The narrowest tile that holds all tokens, else the widest.
Choice fixed_gemm(std::span<const GemmConfig> configs, const PackedView& w, int64_t tokens) {
  Choice choice;
  choice.way = Way::kGemm;
  while (choice.config + 1 < static_cast<int>(configs.size()) && configs[choice.config].tokens < tokens) ++choice.config;
  const GemmConfig& config = configs[choice.config];
  const int units = w.blocks / 2;
  choice.tokens = static_cast<int>(fixed_tokens(w.panels(), fixed_parts(w.panels(), units), tokens, config.tokens));
  choice.plan = fixed_plan(w.panels(), units, choice.tokens, config.tokens, 2 / config.blocks);
  return choice;
}

}  // namespace

Choice pick_invariant(const DeviceTraits& device, const PackedView& w, int64_t tokens) {
  return device.hopper ? fixed_gemm(gemm_configs(w.format), w, tokens) : alike_gemv(device, w, tokens);
}

Choice pick_invariant_dense(const PackedView& w, int64_t tokens) { return fixed_gemm(kDenseGemmConfigs, w, tokens); }

GemmPlan plan_gemm(const DeviceTraits& device, const PackedView& w, int64_t tokens,
                   const GemmConfig& config) {
  GemmPlan plan;
  plan.tiles_m = w.panels();
  plan.tiles_n = static_cast<int>((tokens + config.tokens - 1) / config.tokens);
  plan.units = w.blocks / config.blocks;
  const int tiles = plan.tiles(), all = device.multiprocessors;
  plan.workers = std::min<int64_t>(all, int64_t{tiles} * plan.units);
  if (tiles < all) {
    // Equal parts of each tile cost less to add up, when they leave few multiprocessors idle.
    const int even = tiles * (all / tiles);
    if (even >= all * 9 / 10 && even <= plan.workers) plan.workers = even;
  } else {
    const int rounds = (tiles + all - 1) / all;
    // Whole tiles for all, when that idles few multiprocessors for few rounds.
    if (tiles % rounds == 0 && tiles / rounds >= all * 19 / 20 && rounds <= 8) {
      plan.workers = tiles / rounds, plan.whole = rounds;
    } else {
      plan.whole = tiles / all - (tiles % all != 0);
    }
  }
  plan.deal();
  return plan;
}

Choice pick(const DeviceTraits& device, const PackedView& w, int64_t tokens) {
  Choice choice;
  choice.tokens = static_cast<int>(tokens);
  const bool large = int64_t{w.out} * w.in >= 100'000'000;
  if (tokens <= 8 || (tokens <= 16 && !(large && device.hopper))) {
    choice.way = Way::kGemv;
    choice.config = w.format == Format::kAffine8 ? gemv8_config(device, w, tokens) : gemv_config(device, w, tokens);
    // Compute capability 8.6 and 8.9: fewer at a time.
    if (gemv_shared_bytes(choice.config, w) > device.shared_bytes) return alike_gemv(device, w, tokens);
  } else if (device.hopper) {
    choice.way = Way::kGemm;
    choice.config = gemm_config(w, tokens);
    choice.plan = plan_gemm(device, w, tokens, gemm_configs(w.format)[choice.config]);
  }
  return choice;
}

}  // namespace awq::cuda
