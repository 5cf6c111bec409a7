// Linears on the GPU against products in double.
#include "kernels/cuda/linear.h"

#include <fmt/core.h>

#include <cstring>
#include <functional>
#include <memory>

#include "device_testing.h"
#include "kernels/cuda/dequantize.h"

namespace awq {
namespace {

using namespace testing;
using cuda::Act;

constexpr Act kActs[] = {Act::kF16, Act::kBF16};
// Products see weights rounded to the activation type, sums are fp32 and the result is rounded once.
double bound(Act act) { return act == Act::kF16 ? 5e-4 : 4e-3; }

struct Shape {
  int64_t out, in;
  int group;
  bool zeros;
  DType scales;
  int bits = 4;  // 0: NF4

  QuantWeight weight(uint32_t seed) const {
    return bits == 0 ? random_nf4(out, in, group, scales, seed) : random_quant(out, in, bits, group, zeros, scales, seed);
  }
};
const Shape kShapes[] = {{576, 576, 64, true, DType::kF16},    {37, 96, 32, true, DType::kF16},
                         {1000, 1024, 128, true, DType::kF16}, {192, 1536, 128, false, DType::kBF16},
                         {136, 384, 192, true, DType::kBF16},  {520, 4096, 128, true, DType::kF16},
                         {64, 320, -1, false, DType::kF32},    {264, 2048, 32, true, DType::kF16}};
// Groups of every kind, rows of no whole block, sums long enough to be shared by blocks, and many strips.
const Shape kShapes8[] = {{576, 576, 64, true, DType::kF16, 8},     {37, 96, 32, true, DType::kF16, 8},
                          {1000, 1024, 128, false, DType::kF16, 8}, {136, 384, 192, true, DType::kBF16, 8},
                          {520, 4096, -1, false, DType::kF32, 8},   {64, 328, -1, false, DType::kF32, 8},
                          {264, 8192, 32, true, DType::kF16, 8},    {8464, 256, 64, true, DType::kBF16, 8},
                          {112, 640, 128, true, DType::kF16, 6}};
const Shape kShapesNf4[] = {{576, 576, 64, false, DType::kF32, 0},   {37, 96, 32, false, DType::kF16, 0},
                            {1000, 1024, 64, false, DType::kF16, 0}, {136, 384, 128, false, DType::kBF16, 0},
                            {264, 8192, 64, false, DType::kF16, 0},  {8464, 256, 64, false, DType::kF16, 0}};
std::vector<Shape> all_shapes() {
  std::vector<Shape> all(std::begin(kShapes), std::end(kShapes));
  all.insert(all.end(), std::begin(kShapes8), std::end(kShapes8));
  all.insert(all.end(), std::begin(kShapesNf4), std::end(kShapesNf4));
  return all;
}

class DeviceLinear : public ::testing::Test {
 protected:
  void SetUp() override {
    SKIP_WITHOUT_GPU();
    stream_ = std::make_unique<cuda::Stream>();
  }

  using Call = std::function<void(const cuda::Product&, cudaStream_t)>;

  // y [tokens, width] of a product; rows are `pad` columns apart, all poisoned before, those columns checked after.
  std::vector<float> run(const Call& call, cuda::Product product, Act act, int64_t width, int64_t pad = 3) {
    const int64_t size = product.output == cuda::Output::kF32 ? 4 : 2;
    product.ldy = width + pad;
    std::vector<uint8_t> y(static_cast<size_t>(product.tokens * product.ldy * size), 0xff);
    const cuda::Buffer device = upload(y);
    product.y = device.data();
    call(product, stream_->get());
    stream_->synchronize();
    device.download(y.data(), device.bytes());
    std::vector<float> result;
    for (int64_t t = 0; t < product.tokens; ++t)
      for (int64_t i = 0; i < product.ldy; ++i) {
        uint16_t half;
        float f;
        const uint8_t* at = y.data() + (t * product.ldy + i) * size;
        std::memcpy(&half, at, 2);
        if (size == 4)
          std::memcpy(&f, at, 4);
        else
          f = from_act(act, half);
        if (i < width)
          result.push_back(f);
        else
          EXPECT_EQ(half, 0xffff) << "beyond the columns of y";
      }
    return result;
  }
  std::vector<float> run(const cuda::Linear& linear, cuda::Context& context, const cuda::Choice* choice, Act act,
                         const cuda::Buffer& x, int64_t tokens, cuda::Output output = cuda::Output::kAct) {
    const Call call = [&](const cuda::Product& product, cudaStream_t stream) {
      choice != nullptr ? linear.run(context, *choice, act, product, stream) : linear.run(context, act, product, stream);
    };
    const bool gated = output == cuda::Output::kGated, dense = choice != nullptr && choice->way == cuda::Way::kDense;
    return run(call, {x.data(), tokens, nullptr, 0, output, {}, {}, 0}, act, gated ? linear.out() / 2 : linear.out(), gated && dense ? 0 : 3);
  }

  static double error(const std::vector<float>& y, const std::vector<double>& want) {
    EXPECT_EQ(y.size(), want.size());
    double diff = 0, size = 0;
    for (size_t i = 0; i < y.size(); ++i) {
      const double d = double{y[i]} - want[i];
      if (!std::isfinite(d)) return INFINITY;
      diff += d * d, size += want[i] * want[i];
    }
    return std::sqrt(diff / size);
  }

  // The pieces of a norm: inputs that are to be scaled, and sums that go to the residual stream. `want` is the plain product, fp32
  // sums are to be within sum_bound of it.
  void expect_norm_pieces(const Call& call, const cuda::Buffer& x, const std::vector<double>& want, int strips, int64_t out, int64_t in,
                          Act act, int64_t tokens, bool by_strips, double sum_bound = 1e-5) {
    const int count = tokens % 2 == 0 ? 37 : 600;  // more than a warp holds at once
    const auto sums = random_floats((count + 1) * tokens, 41), gain = random_floats(out, 42), bias = random_floats(out, 43),
               residual = random_floats(tokens * out, 44);
    std::vector<float> parts;
    std::vector<double> factors, nexts;
    for (int64_t t = 0; t < tokens; ++t) {
      double all = 0;
      for (int i = 0; i < count; ++i)
        parts.push_back(std::abs(sums[t * (count + 1) + i]) * static_cast<float>(in) / count), all += parts.back();
      parts.push_back(0.5f + std::abs(sums[t * (count + 1) + count]));
      factors.push_back(1 / std::sqrt(all / static_cast<double>(in) + 1e-5) / parts.back());
      nexts.push_back(1 / std::sqrt(all / static_cast<double>(out) + 1e-5));
    }
    const cuda::Buffer d_parts = upload(parts), d_gain = upload(gain), d_bias = upload(bias);
    cuda::Product product{x.data(), tokens, nullptr, 0, cuda::Output::kAct, {d_parts.as<float>(), count}, {}, 1e-5f};
    std::vector<double> scaled(want.begin(), want.begin() + tokens * out);
    for (int64_t i = 0; i < tokens * out; ++i) scaled[i] *= factors[i / out];
    EXPECT_LT(error(run(call, product, act, out), scaled), bound(act)) << "scaled";
    if (out % 16 == 0) {
      product.output = cuda::Output::kGated;
      EXPECT_LT(error(run(call, product, act, out / 2), exact_gated(scaled, out, by_strips)), 3 * bound(act)) << "scaled and gated";
    }
    for (const bool first : {true, false}) {
      SCOPED_TRACE(first ? "the first norm" : "a later norm");
      const cuda::Buffer d_residual = upload(residual), d_x = upload(std::vector<uint16_t>(residual.size(), 0xffff)),
                         after = upload(std::vector<float>(static_cast<size_t>(tokens * (strips + 1)), NAN));
      product = {x.data(), tokens, nullptr, 0, cuda::Output::kResidual, {}, {}, 1e-5f};
      product.residual = {d_residual.as<float>(), d_x.data(), first ? nullptr : d_bias.as<float>(), d_gain.as<float>(),
                          first ? cuda::NormParts{} : cuda::NormParts{d_parts.as<float>(), count}, {after.as<float>(), strips}};
      call(product, stream_->get());
      stream_->synchronize();
      std::vector<float> got(residual.size()), left(static_cast<size_t>(tokens * (strips + 1)));
      std::vector<uint16_t> got_x(residual.size());
      d_residual.download(got.data(), d_residual.bytes());
      d_x.download(got_x.data(), d_x.bytes());
      after.download(left.data(), after.bytes());
      std::vector<double> sum, next_x;
      std::vector<float> x_values;
      for (int64_t i = 0; i < tokens * out; ++i) {
        sum.push_back(double{residual[i]} + want[i] + (first ? 0 : bias[i % out]));
        next_x.push_back(sum.back() * gain[i % out] * (first ? 1 : nexts[i / out]));
        x_values.push_back(from_act(act, got_x[i]));
      }
      EXPECT_LT(error(got, sum), sum_bound);
      EXPECT_LT(error(x_values, next_x), bound(act));
      for (int64_t t = 0; t < tokens; ++t) {
        double all = 0, squares = 0;
        for (int i = 0; i < strips; ++i) all += left[t * (strips + 1) + i];
        for (int64_t i = 0; i < out; ++i) squares += sum[t * out + i] * sum[t * out + i];
        EXPECT_NEAR(all / squares, 1, sum_bound);
        EXPECT_NEAR(left[t * (strips + 1) + strips] / (first ? 1 : nexts[t]), 1, 1e-5);
      }
    }
  }

  // Every configuration on the shapes, whatever pick() would choose.
  void every_kernel(const std::vector<Shape>& shapes, std::vector<int> gemm_tokens) {
    cuda::Context context;
    const bool hopper = context.traits().hopper;
    const int most = gemm_tokens.back();
    for (const Shape& s : shapes) {
      const QuantWeight w = s.weight(12);
      const cuda::Linear linear(w);
      const cuda::Format format = linear.view().format;
      for (const Act act : kActs) {
        const double sum_bound = format == cuda::Format::kNf4 ? bound(act) : 1e-5;  // NF4's table is rounded
        const int64_t kMost = std::max(most, 16);
        auto inputs = random_floats(kMost * s.in, 6);
        if (format == cuda::Format::kAffine8)  // 8-bit weights are 16 times as large: a gate times its `up` is to stay in fp16
          for (float& v : inputs) v /= 16;
        const auto x = to_act(act, inputs);
        const cuda::Buffer device = upload(x);
        const auto want = exact_product(w, act, x, kMost);
        const auto gates = exact_gated(want, s.out, true);
        const auto expect = [&](const cuda::Choice& choice, int64_t tokens, const std::string& name) {
          SCOPED_TRACE(
              fmt::format("[{}, {}] {} x {} tokens: {}", s.out, s.in, w.scheme.text(), tokens, name));
          const auto y = run(linear, context, &choice, act, device, tokens);
          EXPECT_LT(error(y, {want.begin(), want.begin() + tokens * s.out}), bound(act));
          EXPECT_TRUE(same_bits(y, run(linear, context, &choice, act, device, tokens))) << "two runs";
          const auto other = [&](cuda::Output output) { return run(linear, context, &choice, act, device, tokens, output); };
          if (s.out % 16 == 0) {
            EXPECT_LT(error(other(cuda::Output::kGated), {gates.begin(), gates.begin() + tokens * s.out / 2}), 2 * bound(act)) << "gated";
          }
          if (choice.way != cuda::Way::kDense) {  // tiles round weights as products of 16 bits see them
            EXPECT_LT(error(other(cuda::Output::kF32), {want.begin(), want.begin() + tokens * s.out}),
                      choice.way == cuda::Way::kGemv ? sum_bound : bound(act)) << "fp32";
          }
          if (choice.way == cuda::Way::kGemv)
            expect_norm_pieces([&](const cuda::Product& p, cudaStream_t stream) { linear.run(context, choice, act, p, stream); }, device,
                               want, linear.strips(), s.out, s.in, act, tokens, true, sum_bound);
        };
        for (int i = 0; i < cuda::gemv_count(format); ++i) {
          const cuda::GemvConfig& c = cuda::gemv_configs(format)[i];
          if ((c.split > 1 && !hopper) ||
              cuda::gemv_shared_bytes(i, linear.view()) > context.traits().shared_bytes)
            continue;
          for (const int tokens : {1, c.tokens}) {
            if (tokens <= c.tokens)
              expect({cuda::Way::kGemv, i, tokens, {}}, tokens, fmt::format("gemv {}", i));
          }
        }
        for (int i = 0; hopper && i < cuda::kGemmCount; ++i)
          for (const int tokens : gemm_tokens) {
            cuda::Choice choice{cuda::Way::kGemm, i, tokens, {}};
            choice.plan = cuda::plan_gemm(context.traits(), linear.view(), tokens, cuda::gemm_configs(format)[i]);
            expect(choice, tokens, fmt::format("gemm {}", i));
            choice.plan.workers =
                std::min(3, choice.plan.tiles() * choice.plan.units);  // long walks over many tiles
            choice.plan.whole = choice.plan.tiles() / choice.plan.workers / 2;
            choice.plan.deal();
            expect(choice, tokens, fmt::format("gemm {} with {} workers", i, choice.plan.workers));
          }
        expect({cuda::Way::kDense, 0, most, {}}, most, "dense");
      }
    }
  }

  // What a context picks, on all shapes.
  void picked_kernel(bool invariant);

 private:
  std::unique_ptr<cuda::Stream> stream_;
};

TEST_F(DeviceLinear, PickedKernelMatchesDouble) { picked_kernel(false); }
TEST_F(DeviceLinear, InvariantKernelMatchesDouble) { picked_kernel(true); }

void DeviceLinear::picked_kernel(bool invariant) {
  cuda::Context context(invariant);
  for (const Shape& s : all_shapes()) {
    const QuantWeight w = s.weight(11);
    const cuda::Linear linear(w);
    for (const Act act : kActs) {
      constexpr int64_t kMost = 300;
      const auto x = to_act(act, random_floats(kMost * s.in, 5));
      const cuda::Buffer device = upload(x);
      const auto want = exact_product(w, act, x, kMost);
      for (const int64_t tokens : {1, 2, 3, 4, 5, 8, 9, 16, 17, 31, 33, 64, 65, 128, 130, 256, 300}) {
        SCOPED_TRACE(fmt::format("[{}, {}] {} x {} tokens, {}", s.out, s.in, w.scheme.text(), tokens,
                                 static_cast<int>(act)));
        const auto y = run(linear, context, nullptr, act, device, tokens);
        EXPECT_LT(error(y, {want.begin(), want.begin() + tokens * s.out}), bound(act));
      }
    }
  }
}

TEST_F(DeviceLinear, EveryKernelMatchesDouble) {
  every_kernel({kShapes[0], kShapes[1], kShapes[2], kShapes[7]}, {1, 50, 270});
}
TEST_F(DeviceLinear, EveryKernelOf8BitsMatchesDouble) {
  every_kernel({kShapes8[0], kShapes8[1], kShapes8[2], kShapes8[6]}, {1, 50, 270});
}
TEST_F(DeviceLinear, EveryKernelOfNf4MatchesDouble) {
  every_kernel({kShapesNf4[1], kShapesNf4[2], kShapesNf4[3]}, {1, 50, 270});
}

class DeviceDense : public DeviceLinear {
 protected:
  void expect(int64_t out, int64_t in, const std::vector<int64_t>& counts, bool invariant = false) {
    cuda::Context context(invariant);
    for (const Act act : kActs) {
      const auto w = to_act(act, random_floats(out * in, 21, 1.0f));
      const int64_t most = counts.back();
      const auto x = to_act(act, random_floats(most * in, 22));
      std::vector<float> dense;
      for (const uint16_t h : w) dense.push_back(from_act(act, h));
      const cuda::Buffer d_w = upload(w), d_x = upload(x);
      const cuda::DenseLinear linear(d_w.data(), out, in);
      const auto want = exact_product(dense, out, in, act, x, most);
      const auto gates = exact_gated(want, out, false);
      const Call call = [&](const cuda::Product& product, cudaStream_t stream) { linear.run(context, act, product, stream); };
      for (const int64_t tokens : counts) {
        SCOPED_TRACE(fmt::format("[{}, {}] x {} tokens, {}", out, in, tokens, act == Act::kF16 ? "fp16" : "bf16"));
        const auto product = [&](cuda::Output output) { return cuda::Product{d_x.data(), tokens, nullptr, 0, output, {}, {}, 0}; };
        const auto y = run(call, product(cuda::Output::kAct), act, out);
        EXPECT_LT(error(y, {want.begin(), want.begin() + tokens * out}), bound(act));
        EXPECT_LT(error(run(call, product(cuda::Output::kF32), act, out), {want.begin(), want.begin() + tokens * out}), 1e-5) << "fp32";
        if (out % 16 == 0) {
          EXPECT_LT(error(run(call, product(cuda::Output::kGated), act, out / 2, 0), {gates.begin(), gates.begin() + tokens * out / 2}),
                    3 * bound(act)) << "gated";
        }
        if (linear.takes_pieces(context, tokens))
          expect_norm_pieces(call, d_x, want, linear.strips(), out, in, act, tokens, false);
      }
    }
  }
};

TEST_F(DeviceDense, FewAndManyTokensMatchDouble) {
  expect(1000, 1024, {1, 2, 4, 8, 9, 40});
  expect(576, 4104, {1, 3, 8});
  expect(4096, 96, {1, 5});
}

TEST_F(DeviceDense, InvariantMatchesDouble) {
  expect(1000, 1024, {1, 8, 16, 17, 64, 65, 300}, true);
  expect(576, 4104, {1, 9, 100}, true);
  expect(4096, 96, {1, 5}, true);
}

// Small enough for compute-sanitizer.
using DeviceDenseSmall = DeviceDense;
TEST_F(DeviceDenseSmall, FewTokensMatchDouble) { expect(48, 320, {1, 3, 8}); }
TEST_F(DeviceDenseSmall, InvariantMatchesDouble) { expect(48, 1032, {1, 20, 70}, true); }

// Small enough for compute-sanitizer.
using DeviceLinearSmall = DeviceLinear;
TEST_F(DeviceLinearSmall, EveryKernelMatchesDouble) {
  every_kernel({{200, 448, 64, true, DType::kF16}}, {40, 260});
}
TEST_F(DeviceLinearSmall, EveryKernelOf8BitsAndNf4MatchesDouble) {
  every_kernel({{208, 448, 64, true, DType::kF16, 8}, {72, 160, 32, false, DType::kF16, 0}}, {40});
}

TEST_F(DeviceLinear, DequantizesExactly) {
  for (const Shape& s : all_shapes()) {
    if (s.scales == DType::kF32) continue;  // rounded when packed
    const QuantWeight w = s.weight(13);
    const cuda::Linear linear(w);
    std::vector<float> want(static_cast<size_t>(s.out * s.in));
    dequantize(w, want.data());
    for (const Act act : kActs) {
      std::vector<uint16_t> got(want.size(), 0xffff);
      const cuda::Buffer device = upload(got);
      cuda::check(cuda::dequantize_strips(linear.view(), 0, static_cast<int>((s.out + 15) / 16), act,
                                          device.data(), nullptr),
                  "dequantizing");
      device.download(got.data(), device.bytes());
      EXPECT_TRUE(same_bits(got, to_act(act, want))) << s.out << " x " << s.in;
    }
  }
}

// Kernels start before their predecessors end: a chain in which each needs the one before, without waiting
// between them, must give what it gives with waiting.
TEST_F(DeviceLinear, ChainsOfEarlyStartsKeepTheirOrder) {
  cuda::Context context;
  const int64_t n = 1024;
  const QuantWeight w = random_quant(n, n, 4, 128, true, DType::kF16, 14);
  const cuda::Linear linear(w);
  for (const int64_t tokens : {1, 4, 16, 40, 200}) {
    std::vector<float> start = random_floats(tokens * n, 8, 1.0f);
    for (float& v : start) v *= 0.01f;
    const auto chain = [&](bool wait) {
      cuda::Stream stream;
      cuda::Buffer x = upload(to_act(Act::kBF16, start)), y(x.bytes());
      for (int i = 0; i < 24; ++i) {
        linear.run(context, Act::kBF16, {x.data(), tokens, y.data(), n, cuda::Output::kAct, {}, {}, 0}, stream.get());
        if (wait) stream.synchronize();
        std::swap(x, y);
      }
      stream.synchronize();
      std::vector<uint16_t> result(static_cast<size_t>(tokens * n));
      x.download(result.data(), x.bytes());
      return result;
    };
    const auto want = chain(true);
    for (int i = 0; i < 5; ++i) EXPECT_TRUE(same_bits(chain(false), want)) << tokens << " tokens";
  }
}

TEST_F(DeviceLinear, NoTokensNoWork) {
  cuda::Context context;
  const cuda::Linear linear(random_quant(64, 64, 4, 64, true, DType::kF16, 15));
  linear.run(context, Act::kF16, {nullptr, 0, nullptr, 64, cuda::Output::kAct, {}, {}, 0}, nullptr);
  cuda::check(cudaDeviceSynchronize(), "waiting");
}

TEST_F(DeviceLinear, SaysHowMuchMemoryIsMissing) {
  try {
    const cuda::Buffer buffer(int64_t{1} << 50);
    FAIL() << "a petabyte was granted";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), Code::kNoMemory);
    EXPECT_NE(std::string(e.what()).find("1125899906842624 bytes of device memory wanted"), std::string::npos)
        << e.what();
  }
  const cuda::Buffer small(1 << 20);  // the failure left nothing behind
  cuda::check(cudaDeviceSynchronize(), "waiting");
}

}  // namespace
}  // namespace awq
