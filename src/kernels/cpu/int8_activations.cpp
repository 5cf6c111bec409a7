// Linears with int8 activations whose weights the int8 products do not take (NF4, real zero points): a token's
// integers q_x, |q_x| <= 127, of one scale s_x meet the weights in floats, y = s_x (q_x Wᵀ). Outliers go through the same
// weights in a second product of their own, for the tokens that have any.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/thread_pool.h"
#include "kernels/cpu/linear_kinds.h"
#include "kernels/cpu/scratch.h"

namespace awq {
namespace {

constexpr float kLevels = 127;
// Adding and subtracting 1.5 * 2^23 rounds |x| < 2^22 to an integer, half to even, in any order of
// evaluation.
constexpr float kRounder = 12582912.0f;

class Int8ActivationLinear final : public PackedLinear {
 public:
  Int8ActivationLinear(QuantWeight w, Precision precision, Product product)
      : threshold_(w.scheme.activations == Activations::kInt8Outliers
                       ? w.scheme.outlier_threshold
                       : std::numeric_limits<float>::infinity()) {
    check_consistent(w);
    w.scheme.activations = Activations::kFloat;
    w.scheme.outlier_threshold = 0;
    inner_ = pack_linear(w, precision, product);
  }

  void run(const float* x, int64_t tokens, float* y, int64_t ldy) const override {
    thread_local Scratch scratch;
    float* integers = scratch.floats(tokens * (in() + 1));
    float* scale = integers + tokens * in();
    parallel_chunks(tokens, in(), [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) scale[t] = quantize_token(x + t * in(), integers + t * in());
    });
    inner_->run(integers, tokens, y, ldy);
    parallel_chunks(tokens, out(), [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t)
        for (int64_t n = 0; n < out(); ++n) y[t * ldy + n] *= scale[t];
    });
    if (std::isfinite(threshold_)) add_outliers(x, tokens, y, ldy);
  }
  int64_t out() const override { return inner_->out(); }
  int64_t in() const override { return inner_->in(); }
  int64_t bytes() const override { return inner_->bytes(); }
  std::string kernel() const override {
    return inner_->kernel() + (std::isfinite(threshold_) ? "-a8-outliers" : "-a8-token");
  }

 private:
  bool outlier(float v) const { return std::fabs(v) >= threshold_; }

  // Writes the integers, 0 for outliers; returns their scale.
  float quantize_token(const float* x, float* q) const {
    float largest = 0;
    for (int64_t k = 0; k < in(); ++k) {
      const float a = std::fabs(x[k]);
      largest = a > largest && a < threshold_ ? a : largest;
    }
    const float scale = largest / kLevels, inverse = scale > 0 ? 1.0f / scale : 0.0f;
    for (int64_t k = 0; k < in(); ++k) q[k] = outlier(x[k]) ? 0.0f : x[k] * inverse + kRounder - kRounder;
    return scale;
  }

  void add_outliers(const float* x, int64_t tokens, float* y, int64_t ldy) const {
    thread_local std::vector<int64_t> with;
    with.clear();
    for (int64_t t = 0; t < tokens; ++t)
      if (std::any_of(x + t * in(), x + (t + 1) * in(), [&](float v) { return outlier(v); }))
        with.push_back(t);
    if (with.empty()) return;
    const auto count = static_cast<int64_t>(with.size());
    thread_local Scratch scratch;
    float* only = scratch.floats(count * (in() + out()));
    float* product = only + count * in();
    for (int64_t i = 0; i < count; ++i)
      for (int64_t k = 0; k < in(); ++k)
        only[i * in() + k] = outlier(x[with[i] * in() + k]) ? x[with[i] * in() + k] : 0.0f;
    inner_->run(only, count, product, out());
    for (int64_t i = 0; i < count; ++i)
      for (int64_t n = 0; n < out(); ++n) y[with[i] * ldy + n] += product[i * out() + n];
  }

  float threshold_;  // infinite without outliers
  std::unique_ptr<PackedLinear> inner_;
};

}  // namespace

std::unique_ptr<PackedLinear> int8_activation_linear(const QuantWeight& w, Precision precision, Product product) {
  return std::make_unique<Int8ActivationLinear>(w, precision, product);
}

}  // namespace awq
