// One decoder block with dense weights that also goes backward: the gradient of a loss on the block's output
// for the weights of its linears and for its input. The forward computes what Block does without a cache; the
// weights may change between two passes.
#pragma once
#include <array>
#include <span>
#include <vector>

#include "model/model.h"

namespace awq {

// Whether blocks of this model have one: SwiGLU, no soft-caps, no norms behind attention and feed-forward (gemma has all three).
bool goes_backward(const ModelConfig& config);

class DifferentiableBlock {
 public:
  // Copies the numbers of `weights`, quantized ones dequantized; `config` is borrowed. bf16: products of
  // linears may round their factors to bfloat16 (grad_ops.h).
  DifferentiableBlock(const ModelConfig& config, const BlockSpec& spec, const BlockWeights& weights,
                      bool bf16);

  // Everything that reads a site as one matrix [out, in], linears below each other in the order of the spec.
  struct Matrix {
    int64_t out = 0, in = 0;
    std::vector<float> weight, gradient;
  };
  Matrix& at(Site site) { return matrices_[static_cast<size_t>(site)]; }
  // First row of a linear in its site's matrix.
  int64_t row_of(const std::string& module) const;

  // x, y [tokens, hidden]; every span of the batch is a whole sequence from position 0. y may be x only where
  // no backward follows.
  void forward(const float* x, const BatchView& batch, float* y);
  // Of the last forward, whose x and batch must still be there. dy [tokens, hidden]: the loss's gradient for
  // y. Sets the gradient of the sites in `wanted`, and dx [tokens, hidden] unless it is null.
  void backward(const float* dy, const std::array<bool, 4>& wanted, float* dx);

 private:
  struct HeadNorm {
    int64_t first, heads;  // columns of qkv, in heads
    const Tensor* gain;
  };
  std::vector<HeadNorm> head_norms() const;
  void product(Site site, const float* x, int64_t tokens, float* y) const;
  // dx = dy W, and the weight's gradient if wanted. dx may be null.
  void product_backward(Site site, const float* x, const float* dy, int64_t tokens, bool wanted, float* dx);
  void rotate(float* qkv, bool back) const;
  AttentionShape shape() const;

  const ModelConfig& config_;
  int64_t window_;
  RopeConfig rope_;
  bool bf16_;
  Tensor input_norm_, post_norm_, q_norm_, k_norm_;
  std::vector<double> inv_freq_;
  std::array<Matrix, 4> matrices_;
  std::array<std::vector<float>, 4> biases_;  // empty where no linear of the site has one
  std::map<std::string, int64_t> rows_;
  // Of the last forward.
  const float* x_ = nullptr;
  BatchView batch_;
  std::vector<int32_t> back_;  // negated positions: the transposed rotation
  std::vector<float> normed_, plain_qkv_, qkv_, mixed_, middle_, post_normed_, gate_up_, act_;
  std::vector<float> d_act_, d_gate_up_, d_normed_, d_middle_, d_mixed_, d_qkv_;
};

}  // namespace awq
