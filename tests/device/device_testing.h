// Shared by the tests of GPU kernels.
#pragma once
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/half.h"
#include "kernel_testing.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/launch.h"
#include "kernels/devices.h"

#define SKIP_WITHOUT_GPU() \
  if (awq::cuda_devices().empty()) GTEST_SKIP() << awq::cuda_absence()

namespace awq::testing {

// A small model of a type.
inline nlohmann::ordered_json config_of(const char* type, int heads, int kv_heads, int head_dim, int layers = 3) {
  return {{"model_type", type},   {"hidden_size", 256},           {"intermediate_size", 512}, {"num_hidden_layers", layers},
          {"vocab_size", 1000},   {"num_attention_heads", heads},  {"num_key_value_heads", kv_heads},
          {"head_dim", head_dim}, {"max_position_embeddings", 512}, {"rms_norm_eps", 1e-5},    {"rope_theta", 10000.0},
          {"hidden_act", "silu"}, {"tie_word_embeddings", false}};
}

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

inline QuantWeight random_nf4(int64_t rows, int64_t cols, int group, DType scale_dtype, uint32_t seed) {
  QuantWeight w = random_quant(rows, cols, 4, group, false, scale_dtype, seed);
  w.scheme.code = CodeKind::kNf4;
  return w;
}

// y [tokens, out] = x Wᵀ in double, x as rounded to the activation type.
inline std::vector<double> exact_product(const std::vector<float>& dense, int64_t out, int64_t in, cuda::Act act,
                                         const std::vector<uint16_t>& x, int64_t tokens) {
  std::vector<float> floats;
  for (const uint16_t h : x) floats.push_back(from_act(act, h));
  std::vector<double> y(static_cast<size_t>(tokens * out));
  parallel_for(out, [&](int64_t n) {
    for (int64_t t = 0; t < tokens; ++t) {
      double sum = 0;
      for (int64_t k = 0; k < in; ++k) sum += double{dense[n * in + k]} * floats[t * in + k];
      y[t * out + n] = sum;
    }
  });
  return y;
}
inline std::vector<double> exact_product(const QuantWeight& w, cuda::Act act, const std::vector<uint16_t>& x,
                                         int64_t tokens) {
  std::vector<float> dense(static_cast<size_t>(w.rows * w.cols));
  dequantize(w, dense.data());
  return exact_product(dense, w.rows, w.cols, act, x, tokens);
}

// silu(gate) * up of products [tokens, out] whose rows lie by strips (8 gates, then their 8 ups) or in halves.
inline std::vector<double> exact_gated(const std::vector<double>& y, int64_t out, bool by_strips) {
  std::vector<double> result;
  for (size_t t = 0; t < y.size() / static_cast<size_t>(out); ++t)
    for (int64_t i = 0; i < out / 2; ++i) {
      const double* row = y.data() + t * static_cast<size_t>(out);
      const double gate = row[by_strips ? i / 8 * 16 + i % 8 : i], up = row[by_strips ? i / 8 * 16 + i % 8 + 8 : i + out / 2];
      result.push_back(gate / (1 + std::exp(-gate)) * up);
    }
  return result;
}

}  // namespace awq::testing
