// Int8 linears on the GPU: integers are exact, so results are those of the same rounding of inputs on the host, rounded once.
#include "kernels/cuda/int8_linear.h"

#include <fmt/core.h>

#include <algorithm>
#include <memory>

#include "device_testing.h"

namespace awq {
namespace {

using namespace testing;
using cuda::Act;

struct Shape {
  int64_t out, in;
};
const Shape kShapes[] = {{576, 576}, {256, 128}, {40, 1536}, {1000, 208}, {520, 4096}, {16, 16}};
const int64_t kTokens[] = {1, 2, 5, 8, 9, 64, 127, 129, 300};

QuantWeight int8_weight(const Shape& shape, uint64_t seed) {
  QuantWeight w = random_quant(shape.out, shape.in, 8, -1, false, DType::kF16, seed);
  w.scheme.activations = Activations::kInt8Token;
  return w;
}

// s_x s_w Σ q_x q_w, [tokens, out].
std::vector<double> expected(const QuantWeight& w, Act act, const std::vector<uint16_t>& x, int64_t tokens) {
  std::vector<double> y(static_cast<size_t>(tokens * w.rows));
  for (int64_t t = 0; t < tokens; ++t) {
    std::vector<float> row;
    float top = 0;
    for (int64_t k = 0; k < w.cols; ++k) row.push_back(from_act(act, x[t * w.cols + k])), top = std::max(top, std::fabs(row.back()));
    const float scale = top / 127, inverse = scale > 0 ? 1.0f / scale : 0.0f;
    for (int64_t n = 0; n < w.rows; ++n) {
      int64_t sum = 0;
      for (int64_t k = 0; k < w.cols; ++k)
        sum += static_cast<int64_t>(std::nearbyint(row[k] * inverse)) * (w.codes[n * w.cols + k] - 128);
      y[t * w.rows + n] = static_cast<double>(sum) * scale * w.scales[n];
    }
  }
  return y;
}

std::vector<float> run(const cuda::Int8Linear& linear, cuda::Context& context, Act act, const std::vector<uint16_t>& x, int64_t tokens,
                       cuda::Output output, int64_t pad) {
  cuda::Stream stream;
  const int64_t width = output == cuda::Output::kGated ? linear.out() / 2 : linear.out(), ldy = width + pad;
  const cuda::Buffer in = upload(x), y = upload(std::vector<uint16_t>(static_cast<size_t>(tokens * ldy), 0xffff));
  linear.run(context, act, {in.data(), tokens, y.data(), ldy, output, {}, {}, 0}, stream.get());
  stream.synchronize();
  std::vector<uint16_t> raw(static_cast<size_t>(tokens * ldy));
  y.download(raw.data(), y.bytes());
  std::vector<float> result;
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t i = 0; i < ldy; ++i)
      if (i < width)
        result.push_back(from_act(act, raw[t * ldy + i]));
      else
        EXPECT_EQ(raw[t * ldy + i], 0xffff) << "beyond the columns of y";
  return result;
}

// Rounded once to the activation type, after products of floats.
void expect_close(const std::vector<float>& got, const std::vector<double>& want, Act act) {
  const double unit = act == Act::kF16 ? 0x1p-10 : 0x1p-7;
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], want[i], std::fabs(want[i]) * unit + 1e-6) << i;
}

TEST(DeviceInt8, ProductsAreExactIntegers) {
  SKIP_WITHOUT_GPU();
  cuda::Context context;
  for (const Shape& shape : kShapes) {
    const QuantWeight w = int8_weight(shape, 5);
    const cuda::Int8Linear linear(w);
    for (const Act act : {Act::kF16, Act::kBF16})
      for (const int64_t tokens : kTokens) {
        SCOPED_TRACE(fmt::format("{} x {}, {} tokens", shape.out, shape.in, tokens));
        std::vector<uint16_t> x = to_act(act, random_floats(tokens * shape.in, 3));
        std::fill_n(x.begin() + (tokens / 2) * shape.in, shape.in, uint16_t{0});  // a token of zeros
        expect_close(run(linear, context, act, x, tokens, cuda::Output::kAct, tokens % 2 == 0 ? 3 : 8), expected(w, act, x, tokens), act);
      }
  }
}

TEST(DeviceInt8, GatedProducts) {
  SKIP_WITHOUT_GPU();
  cuda::Context context;
  for (const Shape& shape : {Shape{1024, 256}, Shape{544, 1536}}) {
    const QuantWeight w = int8_weight(shape, 6);
    const cuda::Int8Linear linear(w);
    for (const int64_t tokens : {1, 7, 40, 260}) {
      const std::vector<uint16_t> x = to_act(Act::kBF16, random_floats(tokens * shape.in, 4));
      const std::vector<float> got = run(linear, context, Act::kBF16, x, tokens, cuda::Output::kGated, 0);
      const std::vector<double> want = exact_gated(expected(w, Act::kBF16, x, tokens), shape.out, true);
      double diff = 0, size = 0;
      for (size_t i = 0; i < got.size(); ++i) diff += (got[i] - want[i]) * (got[i] - want[i]), size += want[i] * want[i];
      EXPECT_LT(std::sqrt(diff / size), 8e-3) << tokens;
    }
  }
}

// A token's sums are integers: neither its neighbours nor the kernel matter.
TEST(DeviceInt8, SameBitsForAnyNumberOfTokens) {
  SKIP_WITHOUT_GPU();
  cuda::Context context;
  const Shape shape{576, 1536};
  const cuda::Int8Linear linear(int8_weight(shape, 7));
  const std::vector<uint16_t> x = to_act(Act::kF16, random_floats(200 * shape.in, 8));
  const std::vector<float> all = run(linear, context, Act::kF16, x, 200, cuda::Output::kAct, 0);
  for (const int64_t tokens : {1, 3, 8, 9, 130}) {
    const std::vector<float> few =
        run(linear, context, Act::kF16, {x.begin(), x.begin() + tokens * shape.in}, tokens, cuda::Output::kAct, 0);
    EXPECT_TRUE(std::equal(few.begin(), few.end(), all.begin())) << tokens;
  }
}

TEST(DeviceInt8, RefusesOtherSchemes) {
  SKIP_WITHOUT_GPU();
  EXPECT_THROW(cuda::Int8Linear(random_quant(64, 64, 8, -1, false, DType::kF16, 1)), Error);
  EXPECT_THROW(cuda::Int8Linear(int8_weight({64, 72}, 1)), Error);
}

}  // namespace
}  // namespace awq
