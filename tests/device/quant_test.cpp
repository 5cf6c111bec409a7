// Quantization on the GPU against the CPU's, on the same weights and Gram matrices.
#include <fmt/core.h>

#include <algorithm>
#include <random>

#include "device_testing.h"
#include "kernels/quant_backend.h"
#include "kernels/quant_ops.h"
#include "quant/awq_scale.h"

namespace awq {
namespace {

struct Problem {
  int64_t rows, cols;
  Tensor w;
  std::vector<float> gram;
  GramView view() const { return {cols, gram.data(), nullptr}; }
};

// Correlated inputs of very different sizes, weights with some large ones.
Problem make_problem(int64_t rows, int64_t cols, uint32_t seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal;
  const int64_t tokens = 300;
  std::vector<float> size(static_cast<size_t>(cols)), x(static_cast<size_t>(tokens * cols)), w(static_cast<size_t>(rows * cols));
  for (float& s : size) s = std::exp(normal(rng));
  for (int64_t t = 0; t < tokens; ++t) {
    const float common = normal(rng);
    for (int64_t k = 0; k < cols; ++k) x[t * cols + k] = size[k] * (common * static_cast<float>(k % 3) * 0.5f + normal(rng));
  }
  for (float& v : w) v = 0.05f * normal(rng) * (rng() % 50 == 0 ? 4.0f : 1.0f);
  Problem p{rows, cols, Tensor::from(w, {rows, cols}), std::vector<float>(static_cast<size_t>(cols * cols))};
  gram_accumulate(x.data(), cols, tokens, cols, p.gram.data(), false);
  return p;
}

// Both sides' form of a problem.
struct Sides {
  explicit Sides(const Problem& p) : device(make_cuda_quant_backend(0)), cpu_w(p.w.clone()), device_w(device->load(p.w)), gram(device->load_gram(p.gram, p.cols)) {}
  std::unique_ptr<QuantBackend> device;
  QuantBackend& cpu = cpu_quant_backend();
  QuantMatrix cpu_w, device_w;
  GramMatrix gram;
};

double differing(const std::vector<uint8_t>& a, const std::vector<uint8_t>& b) {
  if (a.size() != b.size()) return 1;
  int64_t n = 0;
  for (size_t i = 0; i < a.size(); ++i) n += a[i] != b[i];
  return static_cast<double>(n) / static_cast<double>(a.size());
}

struct Case {
  int64_t rows, cols;
  Scheme scheme;
  DType dtype = DType::kF16;
};

std::vector<Case> cases() {
  const auto affine = [](int bits, int group, ZeroKind zero = ZeroKind::kInteger) { return Scheme{CodeKind::kAffine, bits, group, zero}; };
  return {{70, 256, affine(4, 128)},
          {33, 256, affine(4, 64), DType::kBF16},
          {40, 192, affine(3, 32)},
          {17, 576, affine(4, -1)},
          {24, 512, affine(4, 256)},
          {48, 256, affine(4, 128, ZeroKind::kNone)},
          {19, 256, affine(8, 128)},
          {600, 1024, affine(4, 128)}};
}

TEST(DeviceQuant, RoundsToNearestAsTheCpu) {
  SKIP_WITHOUT_GPU();
  for (const Case& c : cases()) {
    const Problem p = make_problem(c.rows, c.cols, 1);
    Sides s(p);
    const RoundedWeight want = s.cpu.minmax(s.cpu_w, c.scheme, c.dtype);
    RoundedWeight got = s.device->minmax(s.device_w, c.scheme, c.dtype);
    s.device->fetch(got);
    EXPECT_LE(differing(got.codes, want.codes), 1e-4) << c.scheme.text();
    EXPECT_EQ(got.scales, want.scales) << c.scheme.text();
    EXPECT_EQ(got.zeros, want.zeros) << c.scheme.text();
    check_consistent(got);
  }
}

TEST(DeviceQuant, FindsTheRangesTheCpuFinds) {
  SKIP_WITHOUT_GPU();
  for (const Case& c : cases())
    for (const RangeEffort effort : {RangeEffort::kAwqClip, RangeEffort::kFull}) {
      SCOPED_TRACE(c.scheme.text());
      const Problem p = make_problem(c.rows, c.cols, 2);
      Sides s(p);
      const RoundedWeight want = s.cpu.search(s.cpu_w, c.scheme, c.dtype, p.view(), effort);
      RoundedWeight got = s.device->search(s.device_w, c.scheme, c.dtype, s.gram.view(), effort);
      const double got_loss = s.device->loss(s.device_w, got, s.gram.view()), want_loss = s.cpu.loss(s.cpu_w, want, p.view());
      s.device->fetch(got);
      check_consistent(got);
      const double share = differing(got.codes, want.codes);
      EXPECT_LE(share, 1e-3);
      EXPECT_NEAR(got_loss, want_loss, 1e-4 * want_loss);
      EXPECT_NEAR(s.cpu.loss(s.cpu_w, got, p.view()), want_loss, 1e-4 * want_loss);
      fmt::print("{:>8} {:4} x {:4}: {:.5f} % of codes differ, loss {:+.1e}\n", c.scheme.text(), c.rows, c.cols, 100 * share,
                 got_loss / want_loss - 1);
    }
}

TEST(DeviceQuant, MeasuresLossesAsTheCpu) {
  SKIP_WITHOUT_GPU();
  for (const Case& c : cases()) {  // the last one by halves on the tensor cores
    SCOPED_TRACE(c.scheme.text());
    const Problem p = make_problem(c.rows, c.cols, 3);
    Sides s(p);
    EXPECT_NEAR(s.device->energy(s.device_w, s.gram.view()) / s.cpu.energy(s.cpu_w, p.view()), 1, 2e-6);
    std::vector<float> scale(static_cast<size_t>(c.cols));
    for (size_t k = 0; k < scale.size(); ++k) scale[k] = 0.5f + static_cast<float>(k % 7) * 0.3f;
    std::vector<float> error(static_cast<size_t>(p.rows * p.cols));  // in fp32: the CPU may rank with bf16 products
    minmax_error(std::as_const(p.w).f32(), p.rows, p.cols, c.scheme, c.dtype, scale.data(), error.data());
    const double want = gram_loss(error.data(), p.rows, p.cols, p.gram.data());
    EXPECT_NEAR(s.device->minmax_loss(s.device_w, c.scheme, c.dtype, scale, s.gram.view()) / want, 1, 1e-5);
    std::vector<double> got_sum(static_cast<size_t>(c.cols)), want_sum(static_cast<size_t>(c.cols));
    s.cpu.add_relative_magnitudes(s.cpu_w, c.scheme.group_size(c.cols), want_sum);
    s.device->add_relative_magnitudes(s.device_w, c.scheme.group_size(c.cols), got_sum);
    for (size_t k = 0; k < scale.size(); ++k) ASSERT_NEAR(got_sum[k], want_sum[k], 1e-5 * want_sum[k]);
  }
}

TEST(DeviceQuant, ScalesColumnsRowsAndGramMatrices) {
  SKIP_WITHOUT_GPU();
  const Problem p = make_problem(50, 256, 4);
  Sides s(p);
  std::vector<float> columns(256), rows(20);
  for (size_t k = 0; k < columns.size(); ++k) columns[k] = 0.3f + static_cast<float>(k % 11) * 0.2f;
  for (size_t k = 0; k < rows.size(); ++k) rows[k] = 1.7f + static_cast<float>(k);
  const auto same = [](const Tensor& a, const Tensor& b) {
    return std::vector<float>(std::as_const(a).f32(), std::as_const(a).f32() + a.numel()) ==
           std::vector<float>(std::as_const(b).f32(), std::as_const(b).f32() + b.numel());
  };
  EXPECT_TRUE(same(s.device->read(s.device->scaled(s.device_w, columns)), s.cpu.scaled(s.cpu_w, columns)));
  s.device->scale_columns(s.device_w, columns), s.cpu.scale_columns(s.cpu_w, columns);
  s.device->divide_rows(s.device_w, 5, rows), s.cpu.divide_rows(s.cpu_w, 5, rows);
  EXPECT_TRUE(same(s.device->read(s.device_w), s.cpu_w));
  EXPECT_TRUE(same(s.device->read(s.device->gather({{&s.device_w, 3, 4}, {&s.device_w, 0, 17}})),
                   s.cpu.gather({{&s.cpu_w, 3, 4}, {&s.cpu_w, 0, 17}})));
  const GramMatrix got = s.device->scaled_gram(s.gram.view(), columns), want = s.cpu.scaled_gram(p.view(), columns);
  EXPECT_NEAR(s.device->energy(s.device_w, got.view()) / s.cpu.energy(s.cpu_w, want.view()), 1, 2e-6);
  for (const DType dtype : {DType::kF16, DType::kBF16})
    EXPECT_TRUE(same(s.device->read(s.device->load(p.w.to(dtype))), p.w.to(dtype).to_f32()));
}

std::vector<double> row_losses(const Problem& p, const QuantWeight& q) {
  std::vector<float> e(static_cast<size_t>(p.rows * p.cols));
  dequantize(q, e.data());
  for (size_t i = 0; i < e.size(); ++i) e[i] = std::as_const(p.w).f32()[i] - e[i];
  std::vector<float> damped = p.gram;
  double mean = 0;
  for (int64_t k = 0; k < p.cols; ++k) mean += p.gram[k * p.cols + k] / static_cast<double>(p.cols);
  for (int64_t k = 0; k < p.cols; ++k) damped[k * p.cols + k] += static_cast<float>(0.01 * mean);
  std::vector<double> out(static_cast<size_t>(p.rows));
  gram_loss_rows(e.data(), p.rows, p.cols, damped.data(), out.data());
  return out;
}

double sum(const std::vector<double>& v) {
  double total = 0;
  for (const double x : v) total += x;
  return total;
}

TEST(DeviceQuant, CompensatesAsWellAsTheCpu) {
  SKIP_WITHOUT_GPU();
  for (const Case& c : cases())
    for (const auto& [sweeps, refits] : {std::pair{0, 0}, std::pair{2, 0}, std::pair{2, 2}}) {
      SCOPED_TRACE(fmt::format("{}, {} sweeps, {} refits", c.scheme.text(), sweeps, refits));
      const Problem p = make_problem(c.rows, c.cols, 5);
      Sides s(p);
      RoundedWeight want = s.cpu.search(s.cpu_w, c.scheme, c.dtype, p.view(), RangeEffort::kFull);
      RoundedWeight got = s.device->search(s.device_w, c.scheme, c.dtype, s.gram.view(), RangeEffort::kFull);
      s.cpu.compensation(p.view(), 0.01)->improve(s.cpu_w, sweeps, refits, want);
      RoundedWeight before = s.device->search(s.device_w, c.scheme, c.dtype, s.gram.view(), RangeEffort::kFull);
      s.device->fetch(before);
      s.device->compensation(s.gram.view(), 0.01)->improve(s.device_w, sweeps, refits, got);
      s.device->fetch(got);
      check_consistent(got);
      const std::vector<double> old = row_losses(p, before), now = row_losses(p, got), cpu = row_losses(p, want);
      for (size_t r = 0; r < now.size(); ++r) ASSERT_LE(now[r], old[r] * (1 + 1e-4)) << "row " << r;
      EXPECT_LE(sum(now), 1.005 * sum(cpu));
      EXPECT_GE(sum(now), 0.995 * sum(cpu));
      fmt::print("{:>8} {:4} x {:4}, {} sweeps, {} refits: loss {:.3f} of before, {:+.2f} % of the CPU's\n", c.scheme.text(), c.rows, c.cols,
                 sweeps, refits, sum(now) / sum(old), 100 * (sum(now) / sum(cpu) - 1));
    }
}

TEST(DeviceQuant, DegenerateGramMatricesLeaveFiniteCodes) {
  SKIP_WITHOUT_GPU();
  Problem p = make_problem(20, 256, 6);
  for (const int kind : {0, 1}) {  // nothing activated; all inputs equal
    std::fill(p.gram.begin(), p.gram.end(), kind == 0 ? 0.0f : 3.0f);
    Sides s(p);
    RoundedWeight q = s.device->search(s.device_w, {}, DType::kF16, s.gram.view(), RangeEffort::kFull);
    s.device->compensation(s.gram.view(), 0.01)->improve(s.device_w, 2, 2, q);
    s.device->fetch(q);
    check_consistent(q);
    for (const float v : q.scales) ASSERT_TRUE(std::isfinite(v) && v > 0);
  }
}

// The whole search, decisions included.
TEST(DeviceQuant, ChoosesTheScalesTheCpuChooses) {
  SKIP_WITHOUT_GPU();
  for (const uint32_t seed : {7u, 8u, 9u}) {
    const Problem a = make_problem(96, 256, seed), b = make_problem(64, 256, seed + 100);
    Sides s(a);
    SiteStats stats;
    stats.dim = a.cols, stats.tokens = 300, stats.gram = a.gram;
    for (int64_t k = 0; k < a.cols; ++k) stats.abs_sum.push_back(300 * std::sqrt(a.gram[k * a.cols + k] / 300));
    SiteStats there = stats;
    there.gram.clear(), there.device_gram = s.gram.device;
    ScaleSearch search;
    search.scheme = {CodeKind::kAffine, 4, 64, ZeroKind::kInteger};
    const ScaleChoice want = search_scale({{"a", a.w}, {"b", b.w}}, stats, search);
    ScaleChoice got = search_scale({{"a", s.device_w}, {"b", s.device->load(b.w)}}, there, search, *s.device);
    EXPECT_EQ(got.chosen, want.chosen);
    ASSERT_EQ(got.scale.size(), want.scale.size());
    for (size_t k = 0; k < want.scale.size(); ++k) ASSERT_NEAR(got.scale[k], want.scale[k], 1e-6 * want.scale[k]);
    EXPECT_NEAR(got.loss / want.loss, 1, 1e-4);
    EXPECT_NEAR(got.awq_loss / want.awq_loss, 1, 1e-4);
    for (auto& [module, q] : got.rounded) {
      s.device->fetch(q);
      EXPECT_LE(differing(q.codes, want.rounded.at(module).codes), 1e-3);
    }
  }
}

TEST(DeviceQuant, BeyondTheBudgetIsAnError) {
  SKIP_WITHOUT_GPU();
  const auto backend = make_cuda_quant_backend(int64_t{2} << 30);
  try {
    backend->load(Tensor(DType::kF32, {int64_t{1} << 15, int64_t{1} << 15}));
    FAIL() << "4 GiB in a budget of 2";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), Code::kNoMemory);
    EXPECT_NE(std::string(e.what()).find("--vram"), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace awq
