#include "model/attention_weights.h"

#include <algorithm>
#include <cmath>

#include "base/thread_pool.h"

namespace awq {
namespace {

// Scores of one query against keys [first, last], turned into weights; row [tokens].
void weigh(const AttentionShape& shape, const float* q, const float* k, int64_t ld, int64_t first, int64_t last, int64_t tokens,
           float* row) {
  std::fill(row, row + tokens, 0.0f);
  float largest = -INFINITY;
  for (int64_t j = first; j <= last; ++j) {
    float dot = 0;
    for (int64_t d = 0; d < shape.head_dim; ++d) dot += q[d] * k[j * ld + d];
    row[j] = dot * shape.scale;
    if (shape.softcap > 0) row[j] = shape.softcap * std::tanh(row[j] / shape.softcap);
    largest = std::max(largest, row[j]);
  }
  double sum = 0;
  for (int64_t j = first; j <= last; ++j) sum += row[j] = std::exp(row[j] - largest);
  for (int64_t j = first; j <= last; ++j) row[j] = static_cast<float>(row[j] / sum);
}

}  // namespace

void attention_weights(const AttentionShape& shape, int64_t tokens, const float* q, const float* k, int64_t ld, float* out) {
  const int64_t queries_per_key = shape.heads / shape.kv_heads;
  parallel_for(shape.heads, [&](int64_t h) {
    const float* keys = k + h / queries_per_key * shape.head_dim;
    for (int64_t t = 0; t < tokens; ++t) {
      const int64_t first = shape.window > 0 ? std::max<int64_t>(0, t - shape.window + 1) : 0;
      weigh(shape, q + t * ld + h * shape.head_dim, keys, ld, first, t, tokens, out + (h * tokens + t) * tokens);
    }
  });
}

}  // namespace awq
