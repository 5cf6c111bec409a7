#include "kernels/cuda/int8_linear.h"

#include <algorithm>

#include "kernels/cuda/int8_kernels.h"
#include "kernels/cuda/step.h"
#include "kernels/cuda/tensor_map.h"

namespace awq::cuda {
namespace {

// Inputs as integers, and behind them a scale for each token.
struct Rounded {
  int8_t* values;
  float* scales;
};

int64_t rounded_bytes(int64_t tokens, int64_t in) { return (tokens * in + 255) / 256 * 256 + tokens * 4; }

Rounded rounded(Context& context, int64_t tokens, int64_t in) {
  auto* at = static_cast<int8_t*>(context.rounded(rounded_bytes(tokens, in)));
  return {at, reinterpret_cast<float*>(at + (tokens * in + 255) / 256 * 256)};
}

}  // namespace

bool Int8Linear::takes(const QuantWeight& w) {
  const Scheme& s = w.scheme;
  return s.code == CodeKind::kAffine && s.bits == 8 && s.zero == ZeroKind::kNone && s.activations == Activations::kInt8Token &&
         s.group_size(w.cols) == w.cols && w.cols % 16 == 0;
}

Int8Linear::Int8Linear(const QuantWeight& w) : out_(w.rows), in_(w.cols) {
  if (!takes(w))
    fail(Code::kUnsupported, "CUDA linear: weights {} [{}, {}]: expected w8gc-a8 with inputs in multiples of 16", w.scheme.text(), w.rows,
         w.cols);
  std::vector<int8_t> codes(w.codes.size());
  std::transform(w.codes.begin(), w.codes.end(), codes.begin(), [](uint8_t c) { return static_cast<int8_t>(c - 128); });
  std::vector<float> scales = w.scales;
  scales.resize(static_cast<size_t>((out_ + kInt8Outs - 1) / kInt8Outs * kInt8Outs));
  codes_ = Buffer(static_cast<int64_t>(codes.size()));
  scales_ = Buffer(static_cast<int64_t>(scales.size() * sizeof(float)));
  codes_.upload(codes.data(), codes_.bytes());
  scales_.upload(scales.data(), scales_.bytes());
  map_ = int8_tensor_map(codes_.data(), out_, in_, kInt8Outs);
}

void Int8Linear::reserve(Context& context, int64_t tokens, int64_t in) { context.rounded(rounded_bytes(tokens, in)); }

void Int8Linear::run(Context& context, Act act, const Product& product, cudaStream_t stream) const {
  if (product.tokens == 0) return;
  const bool gated = product.output == Output::kGated;
  check_internal(product.scaled.sums == nullptr && (gated || product.output == Output::kAct), "an int8 product with a special input or output");
  const Rounded x = rounded(context, product.tokens, in_);
  check(launch_round_tokens(act, product.x, static_cast<int>(product.tokens), static_cast<int>(in_), x.values, x.scales, stream),
        "rounding inputs");
  // An invariant context keeps gates and ups on one way: tiles join them before they are rounded.
  const bool tiles = context.traits().hopper && (product.tokens > kInt8FewTokens || context.invariant());
  if (!gated || tiles) return multiply(context, act, product, gated, stream);
  run_in_pairs(context, act, product, out_, true, stream, [&](const Product& whole) { multiply(context, act, whole, false, stream); });
}

void Int8Linear::multiply(Context& context, Act act, const Product& product, bool gated, cudaStream_t stream) const {
  const Rounded x = rounded(context, product.tokens, in_);
  Int8Args args{codes_.as<int8_t>(), scales_.as<float>(), static_cast<int>(out_),      static_cast<int>(in_), x.values,
                x.scales,            static_cast<int>(product.tokens), product.y, product.ldy,           gated};
  if (product.tokens <= kInt8FewTokens && !gated) return check(launch_int8_gemv(act, args, stream), "starting an int8 product of few tokens");
  if (context.traits().hopper)
    return check(launch_int8_sm90(act, args, int8_tensor_map(x.values, product.tokens, in_, kInt8Tokens), map_,
                                  context.traits().multiprocessors, stream),
                 "starting an int8 product");
  const int64_t each = std::max<int64_t>(1, Context::kDenseBytes / (out_ * 4));
  for (int64_t first = 0; first < product.tokens; first += each) {
    args.tokens = static_cast<int>(std::min(each, product.tokens - first));
    args.x = x.values + first * in_, args.x_scales = x.scales + first;
    args.y = static_cast<std::byte*>(product.y) + first * product.ldy * 2;
    auto* sums = static_cast<int32_t*>(context.dense(args.tokens * out_ * 4));
    context.cublas().linear_int8(codes_.as<int8_t>(), out_, in_, args.x, args.tokens, sums, stream);
    check(launch_int8_scale(act, sums, args, stream), "scaling sums");
  }
}

}  // namespace awq::cuda
