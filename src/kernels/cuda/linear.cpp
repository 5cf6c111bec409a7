#include "kernels/cuda/linear.h"

#include <algorithm>

#include "kernels/cuda/dequantize.h"
#include "kernels/cuda/pack.h"
#include "kernels/cuda/tensor_map.h"

namespace awq::cuda {
namespace {

int attribute(cudaDeviceAttr which) {
  int device = 0, value = 0;
  check(cudaGetDevice(&device), "finding the device");
  check(cudaDeviceGetAttribute(&value, which, device), "asking the device");
  return value;
}

bool is_hopper() {
  return attribute(cudaDevAttrComputeCapabilityMajor) == 9 &&
         attribute(cudaDevAttrComputeCapabilityMinor) == 0;
}

constexpr int64_t kLargestTile = kPanelRows * kGemmConfigs[kGemmCount - 1].tokens * 4;  // bytes of fp32 sums

}  // namespace

Context::Context() {
  if (attribute(cudaDevAttrComputeCapabilityMajor) < 8)
    fail(Code::kUnsupported, "CUDA: device of compute capability {}.{}: 8.0 or later is needed",
         attribute(cudaDevAttrComputeCapabilityMajor), attribute(cudaDevAttrComputeCapabilityMinor));
  traits_.multiprocessors = attribute(cudaDevAttrMultiProcessorCount);
  traits_.shared_bytes = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  traits_.hopper = is_hopper();
  if (!traits_.hopper) return;
  partials_ = Buffer(traits_.multiprocessors * kLargestTile);
  flags_ = Buffer(traits_.multiprocessors * 4);
  check(cudaMemset(flags_.data(), 0, static_cast<size_t>(flags_.bytes())), "clearing flags");
  check(cudaDeviceSynchronize(), "clearing flags");
  split_ = {partials_.as<float>(), flags_.as<uint32_t>()};
}

Cublas& Context::cublas() {
  if (!cublas_) cublas_ = std::make_unique<Cublas>();
  return *cublas_;
}

void* Context::dense(int64_t bytes) {
  check_internal(bytes <= kDenseBytes, "dense scratch beyond its limit");
  if (dense_.bytes() < bytes) dense_ = Buffer(kDenseBytes);
  return dense_.data();
}

Linear::Linear(const QuantWeight& w) {
  const PackedHost packed = pack_host(w);
  view_ = packed.view;
  codes_ = Buffer(static_cast<int64_t>(packed.codes.size()));
  scales_ = Buffer(static_cast<int64_t>(packed.scales.size()));
  codes_.upload(packed.codes.data(), codes_.bytes());
  scales_.upload(packed.scales.data(), scales_.bytes());
  view_.codes = codes_.data(), view_.scales = scales_.data();
  describe();
}

Linear::Linear(const PackedView& view) : view_(view) { describe(); }

void Linear::describe() {
  if (!is_hopper()) return;
  for (const int blocks : {1, 2})
    maps_[blocks - 1] = codes_tensor_map(view_.codes, view_.strips(), view_.blocks, blocks);
}

int64_t Linear::bytes() const {
  return int64_t{view_.strips()} * view_.blocks * kFragmentBytes +
         int64_t{view_.panels()} * view_.groups * kScaleBytes;
}

void Linear::run(Context& context, Act act, const void* x, int64_t tokens, void* y, int64_t ldy,
                 cudaStream_t stream) const {
  if (tokens > 0) run(context, pick(context.traits(), view_, tokens), act, x, tokens, y, ldy, stream);
}

void Linear::run(Context& context, const Choice& choice, Act act, const void* x, int64_t tokens, void* y,
                 int64_t ldy, cudaStream_t stream) const {
  if (choice.way == Way::kDense) return run_dense(context, act, x, tokens, y, ldy, stream);
  LinearArgs args;
  args.w = view_;
  args.split = context.split();
  args.ldy = ldy;
  args.overlap = context.traits().hopper;
  for (int64_t first = 0; first < tokens; first += choice.tokens) {
    args.x = static_cast<const std::byte*>(x) + first * view_.in * 2;
    args.y = static_cast<std::byte*>(y) + first * ldy * 2;
    args.tokens = static_cast<int>(std::min<int64_t>(choice.tokens, tokens - first));
    if (choice.way == Way::kGemv) {
      check(launch_gemv(choice.config, act, args, stream), "starting a 4-bit product of few tokens");
    } else {
      const GemmConfig& config = kGemmConfigs[choice.config];
      check(launch_gemm_sm90(choice.config, act, args, choice.plan, maps_[config.blocks - 1],
                             x_tensor_map(args.x, args.tokens, view_.in, config.tokens), stream),
            "starting a 4-bit product");
    }
  }
}

// Slices of rows, so that scratch stays small; y's columns are filled slice by slice.
void Linear::run_dense(Context& context, Act act, const void* x, int64_t tokens, void* y, int64_t ldy,
                       cudaStream_t stream) const {
  const int64_t strip_bytes = int64_t{kStripRows} * view_.in * 2,
                all = (view_.out + kStripRows - 1) / kStripRows;
  const int64_t slice = std::clamp<int64_t>(Context::kDenseBytes / strip_bytes, 1, all);
  void* dense = context.dense(slice * strip_bytes);
  for (int64_t first = 0; first < all; first += slice) {
    const int64_t strips = std::min(slice, all - first), row = first * kStripRows;
    check(dequantize_strips(view_, static_cast<int>(first), static_cast<int>(strips), act, dense, stream),
          "dequantizing");
    context.cublas().linear(act, dense, std::min<int64_t>(strips * kStripRows, view_.out - row), view_.in, x,
                            tokens, static_cast<std::byte*>(y) + row * 2, ldy, stream);
  }
}

}  // namespace awq::cuda
