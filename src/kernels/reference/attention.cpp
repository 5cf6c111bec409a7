#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <vector>

#include "kernels/reference.h"

namespace awq::reference {
namespace {

// Fills key and value [head_dim] of a span's position and key/value head.
using Fetch = std::function<void(const SpanView&, int64_t position, int64_t head, float* key, float* value)>;

void attend(const AttentionShape& s, std::span<const SpanView> spans, const float* q, int64_t ldq,
            const Fetch& fetch, float* y) {
  std::vector<float> key(static_cast<size_t>(s.head_dim)), value(key.size());
  std::vector<double> score, out(key.size());
  for (const SpanView& span : spans)
    for (int64_t t = 0; t < span.tokens; ++t)
      for (int64_t h = 0; h < s.heads; ++h) {
        const int64_t kv_head = h / (s.heads / s.kv_heads), position = span.past + t;
        const int64_t first = s.window > 0 ? std::max<int64_t>(0, position - s.window + 1) : 0;
        score.clear();
        for (int64_t p = first; p <= position; ++p) {
          fetch(span, p, kv_head, key.data(), value.data());
          double dot = 0;
          for (int64_t i = 0; i < s.head_dim; ++i)
            dot += double{q[(span.first + t) * ldq + h * s.head_dim + i]} * double{key[i]};
          const double scaled = dot * double{s.scale}, cap = s.softcap;
          score.push_back(cap > 0 ? cap * std::tanh(scaled / cap) : scaled);
        }
        const double top = *std::max_element(score.begin(), score.end());
        double sum = 0;
        std::fill(out.begin(), out.end(), 0.0);
        for (int64_t p = first; p <= position; ++p) {
          fetch(span, p, kv_head, key.data(), value.data());
          const double weight = std::exp(score[p - first] - top);
          sum += weight;
          for (int64_t i = 0; i < s.head_dim; ++i) out[i] += weight * double{value[i]};
        }
        for (int64_t i = 0; i < s.head_dim; ++i)
          y[((span.first + t) * s.heads + h) * s.head_dim + i] = static_cast<float>(out[i] / sum);
      }
}

// A key or a value in the cache: its first element, how many bytes its elements are apart, and the scale of int8.
struct Stored {
  std::byte* at;
  int64_t stride;
  std::byte* scale;
};
Stored stored_at(const KvLayerView& cache, const SpanView& span, int64_t position, int64_t head, bool is_value) {
  std::byte* half = cache.base + span.pages[position / kPageTokens] * cache.page_bytes() + (is_value ? cache.page_bytes() / 2 : 0);
  const int64_t slot = position % kPageTokens, element = dtype_size(cache.dtype);
  return {half + head * cache.head_bytes() + slot * element * (is_value ? cache.head_dim : 1), is_value ? element : element * kPageTokens,
          half + cache.scales_at() + 4 * (head * kPageTokens + slot)};
}

void put(const KvLayerView& cache, const float* x, Stored to) {
  if (cache.dtype != DType::kI8) {
    for (int64_t i = 0; i < cache.head_dim; ++i) convert_from_f32(x + i, cache.dtype, to.at + i * to.stride, 1);
    return;
  }
  float top = 0;
  for (int64_t i = 0; i < cache.head_dim; ++i) top = std::max(top, std::abs(x[i]));
  const float scale = top / 127, inverse = top > 0 ? 127 / top : 0;
  for (int64_t i = 0; i < cache.head_dim; ++i)
    to.at[i * to.stride] = static_cast<std::byte>(static_cast<int8_t>(std::nearbyint(x[i] * inverse)));
  std::memcpy(to.scale, &scale, sizeof scale);
}

void get(const KvLayerView& cache, Stored from, float* x) {
  if (cache.dtype != DType::kI8) {
    for (int64_t i = 0; i < cache.head_dim; ++i) convert_to_f32(cache.dtype, from.at + i * from.stride, x + i, 1);
    return;
  }
  float scale;
  std::memcpy(&scale, from.scale, sizeof scale);
  for (int64_t i = 0; i < cache.head_dim; ++i) x[i] = static_cast<float>(static_cast<int8_t>(from.at[i * from.stride])) * scale;
}

}  // namespace

void kv_write(const KvLayerView& cache, std::span<const SpanView> spans, const float* k, const float* v,
              int64_t ld) {
  for (const SpanView& span : spans)
    for (int64_t t = 0; t < span.tokens; ++t)
      for (int64_t h = 0; h < cache.kv_heads; ++h) {
        put(cache, k + (span.first + t) * ld + h * cache.head_dim, stored_at(cache, span, span.past + t, h, false));
        put(cache, v + (span.first + t) * ld + h * cache.head_dim, stored_at(cache, span, span.past + t, h, true));
      }
}

void attention_paged(const AttentionShape& shape, const KvLayerView& cache, std::span<const SpanView> spans,
                     const float* q, int64_t ldq, float* y) {
  attend(
      shape, spans, q, ldq,
      [&](const SpanView& span, int64_t position, int64_t head, float* key, float* value) {
        get(cache, stored_at(cache, span, position, head, false), key);
        get(cache, stored_at(cache, span, position, head, true), value);
      },
      y);
}

void attention_dense(const AttentionShape& shape, std::span<const SpanView> spans, const float* q,
                     int64_t ldq, const float* k, const float* v, int64_t ldkv, float* y) {
  attend(
      shape, spans, q, ldq,
      [&](const SpanView& span, int64_t position, int64_t head, float* key, float* value) {
        std::copy_n(k + (span.first + position) * ldkv + head * shape.head_dim, shape.head_dim, key);
        std::copy_n(v + (span.first + position) * ldkv + head * shape.head_dim, shape.head_dim, value);
      },
      y);
}

}  // namespace awq::reference
