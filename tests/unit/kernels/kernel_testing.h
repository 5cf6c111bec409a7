// Shared by the kernel tests: every instruction-set path of this machine, seeded data, relative comparison.
#pragma once
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "base/half.h"
#include "base/system.h"
#include "base/thread_pool.h"
#include "tensor/tensor.h"
#include "weights/quant_weight.h"

namespace awq::testing {

inline std::vector<Isa> available_isas() {
  static const Isa best = isa();
  std::vector<Isa> list;
  for (int i = 0; i <= static_cast<int>(best); ++i) list.push_back(static_cast<Isa>(i));
  return list;
}

// Runs a body on every path; restores the best one afterwards.
template <class Body>
void on_every_isa(const Body& body) {
  const std::vector<Isa> list = available_isas();
  for (const Isa path : list) {
    set_isa(path);
    SCOPED_TRACE(isa_name(path));
    body();
  }
  set_isa(list.back());
}

inline std::vector<float> random_floats(int64_t n, uint32_t seed, float scale = 1.0f) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> v(static_cast<size_t>(n));
  for (float& x : v) x = normal(rng);
  return v;
}

inline std::vector<float> rounded_to_bf16(std::vector<float> v) {
  for (float& x : v) x = round_to_bf16(x);
  return v;
}

// max |a - b| / max |b|
inline double relative_error(const std::vector<float>& a, const std::vector<float>& b) {
  double worst = 0, top = 1e-30;
  for (size_t i = 0; i < a.size(); ++i) {
    if (!std::isfinite(a[i])) return INFINITY;
    worst = std::max(worst, std::abs(double{a[i]} - double{b[i]}));
    top = std::max(top, std::abs(double{b[i]}));
  }
  return a.size() == b.size() ? worst / top : INFINITY;
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

// Runs `produce` (returning a vector) with 1, 2 and 3 threads and expects the same bits.
template <class Produce>
auto same_for_any_threads(const Produce& produce) {
  const int before = threads();
  set_threads(1);
  const auto one = produce();
  for (const int n : {2, 3}) {
    set_threads(n);
    EXPECT_TRUE(same_bits(one, produce())) << n << " threads";
  }
  set_threads(before);
  return one;
}

inline QuantWeight random_quant(int64_t rows, int64_t cols, int bits, int group, bool zeros,
                                DType scale_dtype, uint32_t seed) {
  QuantWeight w;
  w.scheme = {CodeKind::kAffine, bits, group, zeros ? ZeroKind::kInteger : ZeroKind::kNone};
  w.rows = rows;
  w.cols = cols;
  w.scale_dtype = scale_dtype;
  std::mt19937 rng(seed);
  const auto code = [&] { return static_cast<uint8_t>(rng() % (1u << bits)); };
  for (int64_t i = 0; i < rows * cols; ++i) w.codes.push_back(code());
  for (int64_t i = 0; i < rows * w.groups(); ++i) {
    w.scales.push_back(0.001f * static_cast<float>(1 + rng() % 50));
    if (zeros) w.zeros.push_back(code());
  }
  const Tensor rounded =
      Tensor::from(w.scales, {static_cast<int64_t>(w.scales.size())}).to(scale_dtype).to_f32();
  w.scales.assign(rounded.f32(), rounded.f32() + rounded.numel());
  return w;
}

}  // namespace awq::testing
