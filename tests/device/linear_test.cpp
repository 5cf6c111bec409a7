// 4-bit linears on the GPU against products in double.
#include "kernels/cuda/linear.h"

#include <fmt/core.h>

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
};
const Shape kShapes[] = {{576, 576, 64, true, DType::kF16},    {37, 96, 32, true, DType::kF16},
                         {1000, 1024, 128, true, DType::kF16}, {192, 1536, 128, false, DType::kBF16},
                         {136, 384, 192, true, DType::kBF16},  {520, 4096, 128, true, DType::kF16},
                         {64, 320, -1, false, DType::kF32},    {264, 2048, 32, true, DType::kF16}};

class DeviceLinear : public ::testing::Test {
 protected:
  void SetUp() override {
    SKIP_WITHOUT_GPU();
    stream_ = std::make_unique<cuda::Stream>();
  }

  // y with three more columns than W has rows; poisoned before, the extra columns checked after.
  std::vector<uint16_t> run(const cuda::Linear& linear, cuda::Context& context, const cuda::Choice* choice,
                            Act act, const cuda::Buffer& x, int64_t tokens) {
    const int64_t ldy = linear.out() + 3;
    std::vector<uint16_t> y(static_cast<size_t>(tokens * ldy), 0xffff);
    const cuda::Buffer device = upload(y);
    if (choice != nullptr)
      linear.run(context, *choice, act, x.data(), tokens, device.data(), ldy, stream_->get());
    else
      linear.run(context, act, x.data(), tokens, device.data(), ldy, stream_->get());
    stream_->synchronize();
    device.download(y.data(), device.bytes());
    std::vector<uint16_t> result;
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t i = linear.out(); i < ldy; ++i)
        EXPECT_EQ(y[t * ldy + i], 0xffff) << "beyond the columns of y";
      result.insert(result.end(), y.begin() + t * ldy, y.begin() + t * ldy + linear.out());
    }
    return result;
  }

  static double error(Act act, const std::vector<uint16_t>& y, const std::vector<double>& want) {
    double diff = 0, size = 0;
    for (size_t i = 0; i < y.size(); ++i) {
      const double d = double{from_act(act, y[i])} - want[i];
      if (!std::isfinite(d)) return INFINITY;
      diff += d * d, size += want[i] * want[i];
    }
    return std::sqrt(diff / size);
  }

  // Every configuration on the shapes, whatever pick() would choose.
  void every_kernel(const std::vector<Shape>& shapes, std::vector<int> gemm_tokens) {
    cuda::Context context;
    const bool hopper = context.traits().hopper;
    const int most = gemm_tokens.back();
    for (const Shape& s : shapes) {
      const QuantWeight w = random_quant(s.out, s.in, 4, s.group, s.zeros, s.scales, 12);
      const cuda::Linear linear(w);
      for (const Act act : kActs) {
        const int64_t kMost = std::max(most, 16);
        const auto x = to_act(act, random_floats(kMost * s.in, 6));
        const cuda::Buffer device = upload(x);
        const auto want = exact_product(w, act, x, kMost);
        const auto expect = [&](const cuda::Choice& choice, int64_t tokens, const std::string& name) {
          SCOPED_TRACE(
              fmt::format("[{}, {}] {} x {} tokens: {}", s.out, s.in, w.scheme.text(), tokens, name));
          const auto y = run(linear, context, &choice, act, device, tokens);
          EXPECT_LT(error(act, y, {want.begin(), want.begin() + tokens * s.out}), bound(act));
          EXPECT_TRUE(same_bits(y, run(linear, context, &choice, act, device, tokens))) << "two runs";
        };
        for (int i = 0; i < cuda::kGemvCount; ++i) {
          const cuda::GemvConfig& c = cuda::kGemvConfigs[i];
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
            choice.plan = cuda::plan_gemm(context.traits(), linear.view(), tokens, cuda::kGemmConfigs[i]);
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

 private:
  std::unique_ptr<cuda::Stream> stream_;
};

TEST_F(DeviceLinear, PickedKernelMatchesDouble) {
  cuda::Context context;
  for (const Shape& s : kShapes) {
    const QuantWeight w = random_quant(s.out, s.in, 4, s.group, s.zeros, s.scales, 11);
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
        EXPECT_LT(error(act, y, {want.begin(), want.begin() + tokens * s.out}), bound(act));
      }
    }
  }
}

TEST_F(DeviceLinear, EveryKernelMatchesDouble) {
  every_kernel({kShapes[0], kShapes[1], kShapes[2], kShapes[7]}, {1, 50, 270});
}

// Small enough for compute-sanitizer.
using DeviceLinearSmall = DeviceLinear;
TEST_F(DeviceLinearSmall, EveryKernelMatchesDouble) {
  every_kernel({{200, 448, 64, true, DType::kF16}}, {40, 260});
}

TEST_F(DeviceLinear, DequantizesExactly) {
  for (const Shape& s : kShapes) {
    if (s.scales == DType::kF32) continue;  // rounded when packed
    const QuantWeight w = random_quant(s.out, s.in, 4, s.group, s.zeros, s.scales, 13);
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
        linear.run(context, Act::kBF16, x.data(), tokens, y.data(), n, stream.get());
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
  linear.run(context, Act::kF16, nullptr, 0, nullptr, 64, nullptr);
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
