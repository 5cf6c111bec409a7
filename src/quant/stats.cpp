#include "quant/stats.h"

#include <algorithm>
#include <cmath>

#include "base/thread_pool.h"
#include "kernels/quant_ops.h"

namespace awq {

namespace {

constexpr int64_t kColumns = 16;

// Adds the magnitudes of n <= kColumns columns of x to `sums`, and raises `tops` to the largest. N, where not 0, is n: a number that the
// compiler knows makes the loop over columns one of vectors.
template <int64_t N>
void add_magnitudes(const float* x, int64_t ldx, int64_t tokens, int64_t n, double* sums, float* tops) {
  const int64_t columns = N > 0 ? N : n;
  double sum[kColumns];
  float top[kColumns];
  std::copy_n(sums, n, sum);
  std::copy_n(tops, n, top);
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t k = 0; k < columns; ++k) {
      const float a = std::fabs(x[t * ldx + k]);
      sum[k] += a;
      top[k] = a > top[k] ? a : top[k];
    }
  std::copy_n(sum, n, sums);
  std::copy_n(top, n, tops);
}

}  // namespace

std::vector<float> SiteStats::abs_mean() const {
  std::vector<float> mean(static_cast<size_t>(dim));
  for (int64_t k = 0; k < dim; ++k) mean[k] = static_cast<float>(abs_sum[k] / static_cast<double>(std::max<int64_t>(tokens, 1)));
  return mean;
}

void StatsObserver::on_input(int64_t, Site site, const float* x, int64_t tokens, int64_t dim) {
  SiteStats& s = sites_[static_cast<size_t>(site)];
  if (s.dim == 0) {
    s.dim = dim;
    s.gram.assign(static_cast<size_t>(dim * dim), 0.0f);
    s.abs_sum.assign(static_cast<size_t>(dim), 0.0);
    s.channel_max.assign(static_cast<size_t>(dim), 0.0f);
  }
  s.tokens += tokens;
  gram_accumulate(x, dim, tokens, dim, s.gram.data(), bf16_);
  const int64_t tiles = (dim + kColumns - 1) / kColumns;
  parallel_for(tiles, [&](int64_t tile) {
    const int64_t begin = tile * kColumns, n = std::min(kColumns, dim - begin);
    const auto add = n == kColumns ? add_magnitudes<kColumns> : add_magnitudes<0>;
    add(x + begin, dim, tokens, n, s.abs_sum.data() + begin, s.channel_max.data() + begin);
  });
  for (const float m : s.channel_max) s.abs_max = std::max(s.abs_max, m);
  if (!keep_sample_) return;
  const int64_t step = std::max<int64_t>(1, tokens / kSamplePerCall);
  for (int64_t t = step / 2; t < tokens && s.sample_tokens < kSampleTokens; t += step, ++s.sample_tokens)
    s.sample.insert(s.sample.end(), x + t * dim, x + (t + 1) * dim);
}

void StatsObserver::take(Site site, InputSums&& sums) {
  SiteStats& s = sites_[static_cast<size_t>(site)];
  s = SiteStats{};
  s.dim = sums.dim, s.tokens = sums.tokens;
  s.gram = std::move(sums.gram.host), s.device_gram = std::move(sums.gram.device);
  s.abs_sum = std::move(sums.abs_sum), s.channel_max = std::move(sums.channel_max);
  for (const float m : s.channel_max) s.abs_max = std::max(s.abs_max, m);
}

void StatsObserver::reset() {
  for (SiteStats& s : sites_) s = SiteStats{};
}

}  // namespace awq
