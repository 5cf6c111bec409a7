#include "model/block_backward.h"

#include <algorithm>
#include <cmath>

#include "base/thread_pool.h"
#include "kernels/grad_ops.h"

namespace awq {
namespace {

constexpr std::array<Site, 4> kSites = {Site::kAttentionIn, Site::kAttentionOut, Site::kMlpIn,
                                        Site::kMlpDown};

float* sized(std::vector<float>& buffer, int64_t n) {
  if (static_cast<int64_t>(buffer.size()) < n) buffer.resize(static_cast<size_t>(n));
  return buffer.data();
}

Tensor norm_of(const BlockWeights& weights, const std::string& name) {
  return name.empty() ? Tensor() : weights.norms.at(name).to_f32();
}

}  // namespace

bool goes_backward(const ModelConfig& config) { return config.activation == Activation::kSilu && config.attention_softcap == 0; }

DifferentiableBlock::DifferentiableBlock(const ModelConfig& config, const BlockSpec& spec,
                                         const BlockWeights& weights, bool bf16)
    : config_(config),
      window_(spec.window),
      rope_(config.layer_rope(spec.layer)),
      bf16_(bf16),
      input_norm_(norm_of(weights, spec.input_norm)),
      post_norm_(norm_of(weights, spec.post_norm)),
      q_norm_(norm_of(weights, spec.q_norm)),
      k_norm_(norm_of(weights, spec.k_norm)),
      inv_freq_(rope_inv_freq(rope_)) {
  check_internal(goes_backward(config) && spec.attention_out_norm.empty() && spec.mlp_out_norm.empty(), "a block without a backward pass");
  for (const Site site : kSites) {
    Matrix& matrix = at(site);
    std::vector<float> bias;
    bool any_bias = false;
    for (const LinearSpec& linear : spec.linears) {
      if (linear.reads != site) continue;
      rows_.emplace(linear.module, matrix.out);
      const Tensor dense = weights.dense(linear.module);
      matrix.weight.insert(matrix.weight.end(), dense.f32(), dense.f32() + linear.out * linear.in);
      matrix.out += linear.out, matrix.in = linear.in;
      bias.resize(static_cast<size_t>(matrix.out), 0.0f);
      const auto found = weights.biases.find(linear.module);
      if (found == weights.biases.end()) continue;
      const Tensor values = found->second.to_f32();
      std::copy_n(values.f32(), linear.out, bias.end() - linear.out);
      any_bias = true;
    }
    if (any_bias) biases_[static_cast<size_t>(site)] = std::move(bias);
  }
}

int64_t DifferentiableBlock::row_of(const std::string& module) const { return rows_.at(module); }

AttentionShape DifferentiableBlock::shape() const {
  return {config_.heads, config_.kv_heads, config_.head_dim, config_.attention_scale, window_, 0};
}

std::vector<DifferentiableBlock::HeadNorm> DifferentiableBlock::head_norms() const {
  std::vector<HeadNorm> norms;
  if (!q_norm_.empty()) norms.push_back({0, config_.heads, &q_norm_});
  if (!k_norm_.empty()) norms.push_back({config_.heads, config_.kv_heads, &k_norm_});
  return norms;
}

void DifferentiableBlock::product(Site site, const float* x, int64_t tokens, float* y) const {
  const Matrix& m = matrices_[static_cast<size_t>(site)];
  product_nt({x, m.in}, {m.weight.data(), m.in}, y, m.out, tokens, m.out, m.in, bf16_);
  const std::vector<float>& bias = biases_[static_cast<size_t>(site)];
  if (!bias.empty()) add_bias(y, m.out, bias.data(), tokens, m.out);
}

void DifferentiableBlock::product_backward(Site site, const float* x, const float* dy, int64_t tokens,
                                           bool wanted, float* dx) {
  Matrix& m = at(site);
  if (wanted)
    product_tn({dy, m.out}, {x, m.in}, sized(m.gradient, m.out * m.in), m.in, m.out, m.in, tokens, bf16_);
  if (dx != nullptr) product_nn({dy, m.out}, {m.weight.data(), m.in}, dx, m.in, tokens, m.in, m.out, bf16_);
}

void DifferentiableBlock::rotate(float* qkv, bool back) const {
  const int64_t width = matrices_[static_cast<size_t>(Site::kAttentionIn)].out;
  BatchView batch = batch_;
  if (back) batch.positions = back_;
  rotate_heads(rope_, config_.head_dim, inv_freq_, batch, qkv, width, config_.heads);
  rotate_heads(rope_, config_.head_dim, inv_freq_, batch, qkv + config_.heads * config_.head_dim, width, config_.kv_heads);
}

void DifferentiableBlock::forward(const float* x, const BatchView& batch, float* y) {
  const ModelConfig& c = config_;
  const auto tokens = static_cast<int64_t>(batch.positions.size());
  const int64_t q_width = c.heads * c.head_dim, kv_width = c.kv_heads * c.head_dim,
                width = at(Site::kAttentionIn).out;
  x_ = x, batch_ = batch;
  float *normed = sized(normed_, tokens * c.hidden), *qkv = sized(qkv_, tokens * width),
        *mixed = sized(mixed_, tokens * q_width);
  rms_norm(x, input_norm_.f32(), 0, c.rms_eps, tokens, c.hidden, normed);
  product(Site::kAttentionIn, normed, tokens, qkv);
  const std::vector<HeadNorm> norms = head_norms();
  if (!norms.empty()) std::copy_n(qkv, tokens * width, sized(plain_qkv_, tokens * width));
  for (const HeadNorm& norm : norms)
    parallel_for(tokens, [&](int64_t t) {
      float* heads = qkv + t * width + norm.first * c.head_dim;
      rms_norm(heads, norm.gain->f32(), 0, c.rms_eps, norm.heads, c.head_dim, heads);
    });
  rotate(qkv, false);
  attention_dense(shape(), batch.spans, qkv, width, qkv + q_width, qkv + q_width + kv_width, width, mixed);

  float *middle = sized(middle_, tokens * c.hidden), *post = sized(post_normed_, tokens * c.hidden);
  float *gate_up = sized(gate_up_, tokens * 2 * c.intermediate), *act = sized(act_, tokens * c.intermediate);
  product(Site::kAttentionOut, mixed, tokens, middle);
  add_inplace(middle, x, tokens * c.hidden);
  rms_norm(middle, post_norm_.f32(), 0, c.rms_eps, tokens, c.hidden, post);
  product(Site::kMlpIn, post, tokens, gate_up);
  silu_mul(gate_up, tokens, c.intermediate, act);
  product(Site::kMlpDown, act, tokens, y);
  add_inplace(y, middle, tokens * c.hidden);
}

void DifferentiableBlock::backward(const float* dy, const std::array<bool, 4>& wanted, float* dx) {
  const ModelConfig& c = config_;
  const auto tokens = static_cast<int64_t>(batch_.positions.size());
  const int64_t q_width = c.heads * c.head_dim, kv_width = c.kv_heads * c.head_dim,
                width = at(Site::kAttentionIn).out;
  const auto is_wanted = [&](Site site) { return wanted[static_cast<size_t>(site)]; };
  float* d_act = sized(d_act_, tokens * c.intermediate);
  product_backward(Site::kMlpDown, act_.data(), dy, tokens, is_wanted(Site::kMlpDown), d_act);
  float* d_gate_up = sized(d_gate_up_, tokens * 2 * c.intermediate);
  silu_mul_backward(gate_up_.data(), d_act, tokens, c.intermediate, d_gate_up);
  float* d_normed = sized(d_normed_, tokens * c.hidden);
  product_backward(Site::kMlpIn, post_normed_.data(), d_gate_up, tokens, is_wanted(Site::kMlpIn), d_normed);
  float* d_middle = sized(d_middle_, tokens * c.hidden);
  rms_norm_backward({middle_.data(), c.hidden}, post_norm_.f32(), c.rms_eps, {d_normed, c.hidden}, tokens, 1,
                    c.hidden, d_middle, c.hidden);
  add_inplace(d_middle, dy, tokens * c.hidden);

  const bool below = is_wanted(Site::kAttentionIn) || dx != nullptr;
  float* d_mixed = sized(d_mixed_, tokens * q_width);
  product_backward(Site::kAttentionOut, mixed_.data(), d_middle, tokens, is_wanted(Site::kAttentionOut),
                   below ? d_mixed : nullptr);
  if (!below) return;
  float* d_qkv = sized(d_qkv_, tokens * width);
  const float *q = qkv_.data(), *k = q + q_width, *v = k + kv_width;
  attention_backward(shape(), batch_.spans, q, width, k, v, width, d_mixed, d_qkv, width, d_qkv + q_width,
                     d_qkv + q_width + kv_width, width);
  back_.assign(batch_.positions.begin(), batch_.positions.end());
  for (int32_t& p : back_) p = -p;
  rotate(d_qkv, true);
  for (const HeadNorm& norm : head_norms()) {
    const int64_t at_column = norm.first * c.head_dim;
    rms_norm_backward({plain_qkv_.data() + at_column, width}, norm.gain->f32(), c.rms_eps,
                      {d_qkv + at_column, width}, tokens, norm.heads, c.head_dim, d_qkv + at_column, width);
  }
  product_backward(Site::kAttentionIn, normed_.data(), d_qkv, tokens, is_wanted(Site::kAttentionIn),
                   dx != nullptr ? d_normed : nullptr);
  if (dx == nullptr) return;
  rms_norm_backward({x_, c.hidden}, input_norm_.f32(), c.rms_eps, {d_normed, c.hidden}, tokens, 1, c.hidden,
                    dx, c.hidden);
  add_inplace(dx, d_middle, tokens * c.hidden);
}

}  // namespace awq
