// Shared by the tests of GPU kernels.
#pragma once
#include <cmath>
#include <limits>
#include <vector>

#include "base/half.h"
#include "kernel_testing.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/launch.h"
#include "kernels/devices.h"

#define SKIP_WITHOUT_GPU() \
  if (awq::cuda_devices().empty()) GTEST_SKIP() << awq::cuda_absence()

namespace awq::testing {

inline uint16_t to_act(cuda::Act act, float f) {
  return act == cuda::Act::kF16 ? f32_to_fp16(f) : f32_to_bf16(f);
}
inline float from_act(cuda::Act act, uint16_t h) {
  return act == cuda::Act::kF16 ? fp16_to_f32(h) : bf16_to_f32(h);
}

inline std::vector<uint16_t> to_act(cuda::Act act, const std::vector<float>& values) {
  std::vector<uint16_t> result;
  for (const float v : values) result.push_back(to_act(act, v));
  return result;
}
template <class T>
cuda::Buffer upload(const std::vector<T>& values) {
  cuda::Buffer buffer(static_cast<int64_t>(values.size() * sizeof(T)));
  buffer.upload(values.data(), buffer.bytes());
  return buffer;
}

// y [tokens, out] = x Wᵀ in double, x as rounded to the activation type.
inline std::vector<double> exact_product(const QuantWeight& w, cuda::Act act, const std::vector<uint16_t>& x,
                                         int64_t tokens) {
  std::vector<float> dense(static_cast<size_t>(w.rows * w.cols)), floats;
  dequantize(w, dense.data());
  for (const uint16_t h : x) floats.push_back(from_act(act, h));
  std::vector<double> y(static_cast<size_t>(tokens * w.rows));
  parallel_for(w.rows, [&](int64_t n) {
    for (int64_t t = 0; t < tokens; ++t) {
      double sum = 0;
      for (int64_t k = 0; k < w.cols; ++k) sum += double{dense[n * w.cols + k]} * floats[t * w.cols + k];
      y[t * w.rows + n] = sum;
    }
  });
  return y;
}

}  // namespace awq::testing
