#include <cmath>

#include "model/attention_weights.h"
#include "model/model.h"

namespace awq {
namespace {

float* grown(std::vector<float>& buffer, int64_t n) {
  if (static_cast<int64_t>(buffer.size()) < n) buffer.resize(static_cast<size_t>(n));
  return buffer.data();
}

const Tensor* bias_of(const BlockWeights& weights, const std::string& module) {
  const auto it = weights.biases.find(module);
  return it == weights.biases.end() ? nullptr : &it->second;
}

Linear make_linear(const BlockSpec& spec, const BlockWeights& weights, std::initializer_list<const char*> roles, Precision precision) {
  std::vector<const WeightSource*> parts;
  std::vector<const Tensor*> biases;
  for (const char* role : roles) {
    const std::string& module = spec.linear(role).module;
    parts.push_back(&weights.weights.at(module));
    biases.push_back(bias_of(weights, module));
  }
  return Linear(std::move(parts), std::move(biases), precision);
}

void show_attention(const AttentionShape& shape, std::span<const SpanView> spans, const float* q, const float* k, int64_t ld,
                    int64_t layer, Observer& observer) {
  std::vector<float> weights;
  for (size_t i = 0; i < spans.size(); ++i) {
    const SpanView& span = spans[i];
    weights.resize(static_cast<size_t>(shape.heads * span.tokens * span.tokens));
    attention_weights(shape, span.tokens, q + span.first * ld, k + span.first * ld, ld, weights.data());
    observer.on_attention(layer, static_cast<int64_t>(i), weights.data(), shape.heads, span.tokens);
  }
}

}  // namespace

Block::Block(std::shared_ptr<const ModelConfig> config, const BlockSpec& spec, const BlockWeights& weights, Precision precision)
    : config_(std::move(config)),
      layer_(std::stoll(spec.prefix.substr(spec.prefix.find("layers.") + 7))),
      input_norm_(weights.input_norm),
      post_norm_(weights.post_norm),
      inv_freq_(rope_inv_freq(*config_)),
      qkv_(make_linear(spec, weights, {"q_proj", "k_proj", "v_proj"}, precision)),
      o_(make_linear(spec, weights, {"o_proj"}, precision)),
      gate_up_(make_linear(spec, weights, {"gate_proj", "up_proj"}, precision)),
      down_(make_linear(spec, weights, {"down_proj"}, precision)) {}

void Block::forward(float* hidden, const BatchView& batch, const KvLayerView* cache, Scratch& scratch, Observer* observer) const {
  attention(hidden, batch, cache, scratch, observer);
  mlp(hidden, static_cast<int64_t>(batch.tokens.size()), scratch, observer);
}

void Block::attention(float* hidden, const BatchView& batch, const KvLayerView* cache, Scratch& scratch, Observer* observer) const {
  const ModelConfig& c = *config_;
  const int64_t tokens = static_cast<int64_t>(batch.tokens.size());
  const int64_t q_width = c.heads * c.head_dim, kv_width = c.kv_heads * c.head_dim, width = qkv_.out();
  float* normed = grown(scratch.normed, tokens * c.hidden);
  float* qkv = grown(scratch.qkv, tokens * width);
  float* mixed = grown(scratch.attention, tokens * q_width);
  float* delta = grown(scratch.delta, tokens * c.hidden);

  rms_norm(hidden, input_norm_.f32(), 0, c.rms_eps, tokens, c.hidden, normed);
  if (observer) observer->on_input(layer_, Site::kAttentionIn, normed, tokens, c.hidden);
  qkv_.run(normed, tokens, qkv);
  float *k = qkv + q_width, *v = k + kv_width;
  rope(qkv, width, tokens, c.heads, c.head_dim, batch.positions, inv_freq_, 1.0f);
  rope(k, width, tokens, c.kv_heads, c.head_dim, batch.positions, inv_freq_, 1.0f);
  const AttentionShape shape{c.heads, c.kv_heads, c.head_dim, 1.0f / std::sqrt(static_cast<float>(c.head_dim)), c.sliding_window};
  if (cache != nullptr) {
    kv_write(*cache, batch.spans, k, v, width);
    attention_paged(shape, *cache, batch.spans, qkv, width, mixed);
  } else {
    attention_dense(shape, batch.spans, qkv, width, k, v, width, mixed);
    if (observer && observer->wants_attention(layer_)) show_attention(shape, batch.spans, qkv, k, width, layer_, *observer);
  }
  if (observer) observer->on_input(layer_, Site::kAttentionOut, mixed, tokens, q_width);
  o_.run(mixed, tokens, delta);
  add_inplace(hidden, delta, tokens * c.hidden);
}

void Block::mlp(float* hidden, int64_t tokens, Scratch& scratch, Observer* observer) const {
  const ModelConfig& c = *config_;
  float* normed = grown(scratch.normed, tokens * c.hidden);
  float* gate_up = grown(scratch.gate_up, tokens * 2 * c.intermediate);
  float* act = grown(scratch.mlp, tokens * c.intermediate);
  float* delta = grown(scratch.delta, tokens * c.hidden);

  rms_norm(hidden, post_norm_.f32(), 0, c.rms_eps, tokens, c.hidden, normed);
  if (observer) observer->on_input(layer_, Site::kMlpIn, normed, tokens, c.hidden);
  gate_up_.run(normed, tokens, gate_up);
  silu_mul(gate_up, tokens, c.intermediate, act);
  if (observer) observer->on_input(layer_, Site::kMlpDown, act, tokens, c.intermediate);
  down_.run(act, tokens, delta);
  add_inplace(hidden, delta, tokens * c.hidden);
}

int64_t Block::bytes() const { return qkv_.bytes() + o_.bytes() + gate_up_.bytes() + down_.bytes(); }

}  // namespace awq
