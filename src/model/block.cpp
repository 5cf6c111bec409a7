#include <algorithm>
#include <cmath>

#include "model/attention_weights.h"
#include "model/model.h"
#include "model/pack_cache.h"

namespace awq {
namespace {

float* grown(std::vector<float>& buffer, int64_t n) {
  if (static_cast<int64_t>(buffer.size()) < n) buffer.resize(static_cast<size_t>(n));
  return buffer.data();
}

// The biases of everything that reads `site` below each other, zeros where one has none; empty when none has.
Tensor stacked_bias(const BlockSpec& spec, const BlockWeights& weights, Site site) {
  std::vector<float> all;
  bool any = false;
  for (const LinearSpec& linear : spec.linears) {
    if (linear.reads != site) continue;
    const size_t begin = all.size();
    all.resize(begin + static_cast<size_t>(linear.out), 0.0f);
    if (const auto it = weights.biases.find(linear.module); it != weights.biases.end()) {
      std::copy_n(it->second.f32(), linear.out, all.begin() + static_cast<int64_t>(begin));
      any = true;
    }
  }
  return any ? Tensor::from(all, {static_cast<int64_t>(all.size())}) : Tensor();
}

// Everything that reads `site`, side by side.
Linear make_linear(const BlockSpec& spec, const BlockWeights& weights, Site site,
                   const LinearOptions& options) {
  Tensor bias = stacked_bias(spec, weights, site);
  const std::string name = packed_name(spec, site);
  if (options.packed && options.packed->has(name)) return {options.packed->take(name), std::move(bias)};
  std::vector<const WeightSource*> parts;
  for (const LinearSpec& linear : spec.linears)
    if (linear.reads == site) parts.push_back(&weights.weights.at(linear.module));
  Linear made(parts, std::move(bias), options);
  if (options.packed) {
    std::vector<const PackedLinear*> packed;
    for (const auto& part : made.parts()) packed.push_back(part.get());
    options.packed->keep(name, packed);
  }
  return made;
}

Tensor norm_of(const BlockWeights& weights, const std::string& name) {
  return name.empty() ? Tensor() : weights.norms.at(name);
}

void show_attention(const AttentionShape& shape, std::span<const SpanView> spans, const float* q,
                    const float* k, int64_t ld, int64_t layer, Observer& observer) {
  std::vector<float> weights;
  for (size_t i = 0; i < spans.size(); ++i) {
    const SpanView& span = spans[i];
    weights.resize(static_cast<size_t>(shape.heads * span.tokens * span.tokens));
    attention_weights(shape, span.tokens, q + span.first * ld, k + span.first * ld, ld, weights.data());
    observer.on_attention(layer, static_cast<int64_t>(i), weights.data(), shape.heads, span.tokens);
  }
}

}  // namespace

Block::Block(std::shared_ptr<const ModelConfig> config, const BlockSpec& spec, const BlockWeights& weights,
             const LinearOptions& options)
    : config_(std::move(config)),
      layer_(spec.layer),
      window_(spec.window),
      input_norm_(norm_of(weights, spec.input_norm)),
      post_norm_(norm_of(weights, spec.post_norm)),
      attention_out_norm_(norm_of(weights, spec.attention_out_norm)),
      mlp_out_norm_(norm_of(weights, spec.mlp_out_norm)),
      q_norm_(norm_of(weights, spec.q_norm)),
      k_norm_(norm_of(weights, spec.k_norm)),
      rope_(config_->layer_rope(spec.layer)),
      inv_freq_(rope_inv_freq(rope_)),
      qkv_(make_linear(spec, weights, Site::kAttentionIn, options)),
      o_(make_linear(spec, weights, Site::kAttentionOut, options)),
      gate_up_(make_linear(spec, weights, Site::kMlpIn, options)),
      down_(make_linear(spec, weights, Site::kMlpDown, options)) {}

void Block::forward(float* hidden, const BatchView& batch, const KvLayerView* cache, Scratch& scratch, Observer* observer,
                    BlockHalf half) const {
  if (half != BlockHalf::kMlp) attention(hidden, batch, cache, scratch, observer);
  if (half == BlockHalf::kAttention) return;
  // Gates and ups are the widest rows of a step. Where a model serves they are made for a few tokens at a time, which keeps them small.
  constexpr int64_t kServedAtOnce = 64;
  const auto tokens = static_cast<int64_t>(batch.tokens.size());
  const int64_t at_once = cache != nullptr && observer == nullptr ? kServedAtOnce : std::max<int64_t>(tokens, 1);
  for (int64_t first = 0; first < tokens; first += at_once)
    mlp(hidden + first * config_->hidden, std::min(at_once, tokens - first), scratch, observer);
}

void Block::normalise_heads(float* x, int64_t ldx, int64_t tokens, int64_t heads, const Tensor& gain) const {
  for (int64_t t = 0; t < tokens; ++t)
    rms_norm(x + t * ldx, gain.f32(), 0, config_->rms_eps, heads, config_->head_dim, x + t * ldx);
}

void rotate_heads(const RopeConfig& r, int64_t head_dim, const std::vector<double>& inv_freq, const BatchView& batch, float* x,
                  int64_t ldx, int64_t heads) {
  const auto magnitude = static_cast<float>(r.magnitude);
  if (!r.depends_on_length()) {
    rope(x, ldx, static_cast<int64_t>(batch.positions.size()), heads, head_dim, batch.positions, inv_freq,
         magnitude);
    return;
  }
  for (size_t i = 0; i < batch.spans.size(); ++i) {
    const SpanView& span = batch.spans[i];
    const int64_t length = batch.lengths.empty() ? span.past + span.tokens : batch.lengths[i];
    const bool beyond = static_cast<double>(length) > r.original_max_position;
    const auto positions =
        batch.positions.subspan(static_cast<size_t>(span.first), static_cast<size_t>(span.tokens));
    rope(x + span.first * ldx, ldx, span.tokens, heads, head_dim, positions,
         beyond ? rope_inv_freq(r, length) : inv_freq, magnitude);
  }
}

void Block::attention(float* hidden, const BatchView& batch, const KvLayerView* cache, Scratch& scratch,
                      Observer* observer) const {
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
  if (!q_norm_.empty()) normalise_heads(qkv, width, tokens, c.heads, q_norm_);
  if (!k_norm_.empty()) normalise_heads(k, width, tokens, c.kv_heads, k_norm_);
  rotate_heads(rope_, c.head_dim, inv_freq_, batch, qkv, width, c.heads);
  rotate_heads(rope_, c.head_dim, inv_freq_, batch, k, width, c.kv_heads);
  const AttentionShape shape{c.heads, c.kv_heads, c.head_dim, c.attention_scale, window_, c.attention_softcap};
  if (cache != nullptr) {
    kv_write(*cache, batch.spans, k, v, width);
    attention_paged(shape, *cache, batch.spans, qkv, width, mixed);
  } else {
    attention_dense(shape, batch.spans, qkv, width, k, v, width, mixed);
    if (observer && observer->wants_attention(layer_))
      show_attention(shape, batch.spans, qkv, k, width, layer_, *observer);
  }
  if (observer) observer->on_input(layer_, Site::kAttentionOut, mixed, tokens, q_width);
  o_.run(mixed, tokens, delta);
  if (!attention_out_norm_.empty()) rms_norm(delta, attention_out_norm_.f32(), 0, c.rms_eps, tokens, c.hidden, delta);
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
  (c.activation == Activation::kSilu ? silu_mul : gelu_mul)(gate_up, tokens, c.intermediate, act);
  if (observer) observer->on_input(layer_, Site::kMlpDown, act, tokens, c.intermediate);
  down_.run(act, tokens, delta);
  if (!mlp_out_norm_.empty()) rms_norm(delta, mlp_out_norm_.f32(), 0, c.rms_eps, tokens, c.hidden, delta);
  add_inplace(hidden, delta, tokens * c.hidden);
}

int64_t Block::bytes() const { return qkv_.bytes() + o_.bytes() + gate_up_.bytes() + down_.bytes(); }

}  // namespace awq
