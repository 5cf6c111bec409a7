// The backward pass's kernels against central differences of the slow forward versions, on every
// instruction-set path.
#include "kernels/grad_ops.h"

#include <gtest/gtest.h>

#include "kernels/reference.h"
#include "unit/kernels/kernel_testing.h"

namespace awq::testing {
namespace {

std::vector<float> transposed(const std::vector<float>& x, int64_t rows, int64_t cols) {
  std::vector<float> y(x.size());
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < cols; ++j) y[j * rows + i] = x[i * cols + j];
  return y;
}

TEST(Grad, ProductsInEachLayout) {
  on_every_isa([] {
    for (const auto& [m, n, k] :
         {std::array<int64_t, 3>{1, 1, 1}, {37, 65, 19}, {5, 33, 513}, {130, 16, 301}}) {
      const std::vector<float> x = random_floats(m * k, 1), w = random_floats(n * k, 2);
      std::vector<float> expected(static_cast<size_t>(m * n)), y(expected.size());
      reference::gemm_nt(x.data(), k, w.data(), k, expected.data(), n, m, n, k);
      for (const bool bf16 : {false, true}) {
        const double tolerance = bf16 ? 2e-2 : 1e-5;
        product_nt({x.data(), k}, {w.data(), k}, y.data(), n, m, n, k, bf16);
        EXPECT_LT(relative_error(y, expected), tolerance) << "nt " << m << " " << n << " " << k;
        const std::vector<float> wt = transposed(w, n, k), xt = transposed(x, m, k);
        product_nn({x.data(), k}, {wt.data(), n}, y.data(), n, m, n, k, bf16);
        EXPECT_LT(relative_error(y, expected), tolerance) << "nn " << m << " " << n << " " << k;
        product_tn({xt.data(), m}, {wt.data(), n}, y.data(), n, m, n, k, bf16);
        EXPECT_LT(relative_error(y, expected), tolerance) << "tn " << m << " " << n << " " << k;
      }
    }
  });
}

// d (sum of dy * y) / dx by central differences.
template <class Forward>
std::vector<float> differences(std::vector<float> x, const std::vector<float>& dy, const Forward& forward) {
  constexpr float kStep = 1.0f / 64;  // exactly added to numbers of this size, up to their last bit
  std::vector<float> gradient(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    const float before = x[i];
    const auto loss = [&](float moved) {
      x[i] = moved;
      const std::vector<float> y = forward(x);
      double sum = 0;
      for (size_t j = 0; j < y.size(); ++j) sum += static_cast<double>(dy[j]) * y[j];
      return sum;
    };
    const float up = before + kStep, down = before - kStep;
    gradient[i] =
        static_cast<float>((loss(up) - loss(down)) / (static_cast<double>(up) - static_cast<double>(down)));
    x[i] = before;
  }
  return gradient;
}

TEST(Grad, NormAndGate) {
  const int64_t tokens = 3, dim = 37;
  const std::vector<float> x = random_floats(tokens * dim, 1), gain = random_floats(dim, 2),
                           dy = random_floats(tokens * dim, 3);
  const auto norm = [&](const std::vector<float>& in) {
    std::vector<float> y(in.size());
    reference::rms_norm(in.data(), gain.data(), 0, 1e-5f, tokens, dim, y.data());
    return y;
  };
  const std::vector<float> gate_up = random_floats(tokens * 2 * dim, 4);
  const auto gate = [&](const std::vector<float>& in) {
    std::vector<float> y(static_cast<size_t>(tokens * dim));
    reference::silu_mul(in.data(), tokens, dim, y.data());
    return y;
  };
  const std::vector<float> norm_expected = differences(x, dy, norm),
                           gate_expected = differences(gate_up, dy, gate);
  on_every_isa([&] {
    std::vector<float> dx = dy;  // in place
    rms_norm_backward({x.data(), dim}, gain.data(), 1e-5f, {dx.data(), dim}, tokens, 1, dim, dx.data(), dim);
    EXPECT_LT(relative_error(dx, norm_expected), 1e-3);
    std::vector<float> d_gate_up(gate_up.size());
    silu_mul_backward(gate_up.data(), dy.data(), tokens, dim, d_gate_up.data());
    EXPECT_LT(relative_error(d_gate_up, gate_expected), 1e-3);
  });
}

TEST(Grad, GateOfExtremeInputsIsFinite) {
  const std::vector<float> gate_up = {-200, 200, -60, 60, 1, 1, 1, 1}, dy = {1, 1, 1, 1};
  on_every_isa([&] {
    std::vector<float> d(gate_up.size());
    silu_mul_backward(gate_up.data(), dy.data(), 1, 4, d.data());
    EXPECT_LT(relative_error(d, {0, 1, 0, 1, 0, 200, 0, 60}), 1e-6);
  });
}

// Several tiles of queries, grouped heads, with and without a window that begins inside a tile.
TEST(Grad, AttentionOverTilesAndWindows) {
  const int64_t heads = 4, kv_heads = 2, dim = 6, width = (heads + 2 * kv_heads) * dim, tokens = 150;
  const std::vector<SpanView> spans = {{0, 9, 0, nullptr}, {9, 141, 0, nullptr}};
  const std::vector<float> qkv = random_floats(tokens * width, 1),
                           dy = random_floats(tokens * heads * dim, 2);
  for (const int64_t window : {0, 40}) {
    const AttentionShape shape{heads, kv_heads, dim, 0.4f, window};
    // Along some directions: single entries would take too long.
    const auto loss = [&](const std::vector<float>& in) {
      std::vector<float> y(static_cast<size_t>(tokens * heads * dim));
      reference::attention_dense(shape, spans, in.data(), width, in.data() + heads * dim,
                                 in.data() + (heads + kv_heads) * dim, width, y.data());
      double sum = 0;
      for (size_t i = 0; i < y.size(); ++i) sum += static_cast<double>(dy[i]) * y[i];
      return sum;
    };
    std::vector<std::vector<float>> directions;
    std::vector<double> expected;
    for (uint32_t seed = 10; seed < 22; ++seed) {
      std::vector<float> direction = random_floats(tokens * width, seed), up = qkv, down = qkv;
      for (int64_t i = 0; i < tokens * width; ++i)  // each third direction moves q, k or v only
        if (const int64_t part = i % width < heads * dim                ? 0
                                 : i % width < (heads + kv_heads) * dim ? 1
                                                                        : 2;
            part != seed % 4 && seed % 4 < 3)
          direction[i] = 0;
      for (size_t i = 0; i < up.size(); ++i) up[i] += 1e-3f * direction[i], down[i] -= 1e-3f * direction[i];
      expected.push_back((loss(up) - loss(down)) / 2e-3);
      directions.push_back(std::move(direction));
    }
    on_every_isa([&] {
      std::vector<float> d(qkv.size());
      const float *q = qkv.data(), *k = q + heads * dim, *v = k + kv_heads * dim;
      float *dq = d.data(), *dk = dq + heads * dim, *dv = dk + kv_heads * dim;
      attention_backward(shape, spans, q, width, k, v, width, dy.data(), dq, width, dk, dv, width);
      double norm = 0;
      for (const float g : d) norm += static_cast<double>(g) * g;
      for (size_t i = 0; i < directions.size(); ++i) {
        double along = 0;
        for (size_t j = 0; j < d.size(); ++j) along += static_cast<double>(d[j]) * directions[i][j];
        EXPECT_NEAR(along / std::sqrt(norm), expected[i] / std::sqrt(norm), 5e-3)
            << "window " << window << ", direction " << i;
      }
    });
  }
}

}  // namespace
}  // namespace awq::testing
