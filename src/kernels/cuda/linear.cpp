#include "kernels/cuda/linear.h"

#include <algorithm>

#include "kernels/cuda/dequantize.h"
#include "kernels/cuda/pack.h"
#include "kernels/cuda/step.h"
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

Context::Context(bool invariant) : invariant_(invariant) {
  if (attribute(cudaDevAttrComputeCapabilityMajor) < 8)
    fail(Code::kUnsupported, "CUDA: device of compute capability {}.{}: 8.0 or later is needed",
         attribute(cudaDevAttrComputeCapabilityMajor), attribute(cudaDevAttrComputeCapabilityMinor));
  traits_.multiprocessors = attribute(cudaDevAttrMultiProcessorCount);
  traits_.shared_bytes = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  traits_.hopper = is_hopper();
  if (invariant && gemv_dense_shared_bytes(kDenseTokens) > traits_.shared_bytes)
    fail(Code::kUnsupported, "--invariant: this device has {} bytes of shared memory for a block: expected {} or more (compute capability 8.0, 9.0)",
         traits_.shared_bytes, gemv_dense_shared_bytes(kDenseTokens));
  if (!traits_.hopper) return;
  const int64_t workers = std::max(traits_.multiprocessors, kFixedProcessors);
  partials_ = Buffer(workers * kLargestTile);
  flags_ = Buffer(workers * 4);
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

void* Context::pairs(int64_t bytes) {
  if (pairs_.bytes() < bytes) pairs_ = Buffer(bytes);
  return pairs_.data();
}

void* Context::rounded(int64_t bytes) {
  if (rounded_.bytes() < bytes) rounded_ = Buffer(bytes);
  return rounded_.data();
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
    maps_[blocks - 1] = codes_tensor_map(view_.format, view_.codes, view_.strips(), view_.blocks, blocks);
}

namespace {

LinearArgs arguments(const Context& context, const PackedView& view, const Product& product) {
  LinearArgs args;
  args.w = view;
  args.x = product.x, args.y = product.y;
  args.tokens = static_cast<int>(product.tokens);
  args.ldy = product.ldy;
  args.split = context.split();
  args.overlap = context.traits().hopper;
  args.output = product.output;
  args.scaled = product.scaled, args.residual = product.residual, args.eps = product.eps;
  return args;
}

// Whether a product is one that any kernel takes.
bool plain(const Product& product) {
  return product.scaled.sums == nullptr && (product.output == Output::kAct || product.output == Output::kGated);
}
bool plain_or_f32(const Product& product) {
  return plain(product) || (product.scaled.sums == nullptr && product.output == Output::kF32);
}

// `count` tokens from `first` on of a product with `in` inputs.
Product rows_of(const Product& product, int64_t first, int64_t count, int64_t in) {
  Product rows = product;
  rows.x = static_cast<const std::byte*>(product.x) + first * in * 2;
  rows.y = static_cast<std::byte*>(product.y) + first * product.ldy * (product.output == Output::kF32 ? 4 : 2);
  rows.tokens = count;
  return rows;
}

}  // namespace

void join_pairs(Act act, const Product& pairs, bool by_strips, void* y, cudaStream_t stream) {
  check(launch_silu_mul(act, pairs.y, nullptr, by_strips, static_cast<int>(pairs.tokens), static_cast<int>(pairs.ldy / 2), y, stream),
        "SwiGLU");
}

bool Linear::takes_pieces(const Context& context, int64_t tokens) const {
  if (context.invariant() || tokens < 1 || tokens > kPieceTokens) return false;
  const Choice choice = pick(context.traits(), view_, tokens);
  return choice.way == Way::kGemv && choice.tokens >= tokens;
}

void Linear::run_invariant(Context& context, Act act, const Product& product, cudaStream_t stream) const {
  check_internal(plain_or_f32(product), "an invariant product with a special input or output");
  for (int64_t first = 0; first < product.tokens;) {
    const Choice choice = pick_invariant(context.traits(), view_, product.tokens - first);
    run(context, choice, act, rows_of(product, first, choice.tokens, view_.in), stream);
    first += choice.tokens;
  }
}

void Linear::run(Context& context, Act act, const Product& product, cudaStream_t stream) const {
  if (context.invariant()) return run_invariant(context, act, product, stream);
  if (product.tokens > 0) run(context, pick(context.traits(), view_, product.tokens), act, product, stream);
}

void Linear::run(Context& context, const Choice& choice, Act act, const Product& product, cudaStream_t stream) const {
  check_internal(plain(product) || choice.tokens >= product.tokens, "a product in pieces with a special input or output");
  if (choice.way == Way::kDense) {
    if (product.output != Output::kGated) return run_dense(context, act, product, stream);
    return run_in_pairs(context, act, product, view_.out, true, stream,
                        [&](const Product& whole) { run_dense(context, act, whole, stream); });
  }
  LinearArgs args = arguments(context, view_, product);
  for (int64_t first = 0; first < product.tokens; first += choice.tokens) {
    if (first > 0) {
      args.x = static_cast<const std::byte*>(product.x) + first * view_.in * 2;
      args.y = static_cast<std::byte*>(product.y) + first * product.ldy * 2;
    }
    args.tokens = static_cast<int>(std::min<int64_t>(choice.tokens, product.tokens - first));
    if (choice.way == Way::kGemv) {
      check(launch_gemv(choice.config, act, args, stream), "starting a product of few tokens");
    } else {
      check_internal(plain_or_f32(product), "a product of many tokens with a special input or output");
      const GemmConfig& config = gemm_configs(view_.format)[choice.config];
      check(launch_gemm_sm90(choice.config, act, args, choice.plan, maps_[config.blocks - 1],
                             x_tensor_map(args.x, args.tokens, view_.in, config.tokens), stream),
            "starting a product");
    }
  }
}

// Slices of rows, so that scratch stays small; y's columns are filled slice by slice.
void Linear::run_dense(Context& context, Act act, const Product& product, cudaStream_t stream) const {
  check_internal(product.output == Output::kAct && plain(product), "a product by cuBLAS with a special input or output");
  const int64_t strip_bytes = int64_t{kStripRows} * view_.in * 2,
                all = (view_.out + kStripRows - 1) / kStripRows;
  const int64_t slice = std::clamp<int64_t>(Context::kDenseBytes / strip_bytes, 1, all);
  void* dense = context.dense(slice * strip_bytes);
  for (int64_t first = 0; first < all; first += slice) {
    const int64_t strips = std::min(slice, all - first), row = first * kStripRows;
    check(dequantize_strips(view_, static_cast<int>(first), static_cast<int>(strips), act, dense, stream),
          "dequantizing");
    context.cublas().linear(act, dense, std::min<int64_t>(strips * kStripRows, view_.out - row), view_.in, product.x,
                            product.tokens, static_cast<std::byte*>(product.y) + row * 2, product.ldy, stream);
  }
}

DenseLinear::DenseLinear(const void* w, int64_t out, int64_t in) {
  view_.codes = w;
  view_.out = static_cast<int>(out), view_.in = static_cast<int>(in);
  view_.blocks = static_cast<int>((in + 127) / 128 * 2);
}

bool DenseLinear::takes_pieces(const Context& context, int64_t tokens) const { return !context.invariant() && few(context, tokens); }

bool DenseLinear::few(const Context& context, int64_t tokens) const {
  return tokens >= 1 && tokens <= kDenseTokens && gemv_dense_shared_bytes(static_cast<int>(tokens)) <= context.traits().shared_bytes;
}

// Gates and ups always meet after both were rounded: the tiles do not hold them side by side.
void DenseLinear::run_invariant(Context& context, Act act, const Product& product, cudaStream_t stream) const {
  check_internal(plain_or_f32(product), "an invariant product with a special input or output");
  if (product.output == Output::kGated)
    return run_in_pairs(context, act, product, view_.out, false, stream,
                        [&](const Product& whole) { run_invariant(context, act, whole, stream); });
  const DeviceTraits& device = context.traits();
  const CUtensorMap w_map = device.hopper ? x_tensor_map(view_.codes, view_.out, view_.in, kPanelRows) : CUtensorMap{};
  for (int64_t first = 0, count; first < product.tokens; first += count) {
    const int64_t left = product.tokens - first;
    const Choice choice = device.hopper ? pick_invariant_dense(view_, left) : Choice{};
    count = device.hopper ? choice.tokens : std::min<int64_t>(left, kDenseTokens);
    const LinearArgs args = arguments(context, view_, rows_of(product, first, count, view_.in));
    if (device.hopper)
      check(launch_gemm_dense_sm90(choice.config, act, args, choice.plan, w_map,
                                   x_tensor_map(args.x, count, view_.in, kDenseGemmConfigs[choice.config].tokens), stream),
            "starting a dense product");
    else
      check(launch_gemv_dense(act, args, device.multiprocessors, stream), "starting a dense product of few tokens");
  }
}

void DenseLinear::run(Context& context, Act act, const Product& product, cudaStream_t stream) const {
  if (product.tokens == 0) return;
  if (context.invariant()) return run_invariant(context, act, product, stream);
  if (few(context, product.tokens))
    return check(launch_gemv_dense(act, arguments(context, view_, product), context.traits().multiprocessors, stream),
                 "starting a dense product of few tokens");
  check_internal(plain_or_f32(product),
                 "a product by cuBLAS with a special input or output");
  if (product.output == Output::kGated)
    return run_in_pairs(context, act, product, view_.out, false, stream, [&](const Product& whole) { run(context, act, whole, stream); });
  if (product.output == Output::kF32)
    context.cublas().linear_f32(act, view_.codes, view_.out, view_.in, product.x, product.tokens, static_cast<float*>(product.y),
                                product.ldy, stream);
  else
    context.cublas().linear(act, view_.codes, view_.out, view_.in, product.x, product.tokens, product.y, product.ldy, stream);
}

}  // namespace awq::cuda
