// Row-wise operations of ops.h.
#include <cmath>
#include <cstring>
#include <vector>

#include "base/thread_pool.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/simd_table.h"
#include "kernels/ops.h"

namespace awq {

void rms_norm(const float* x, const float* weight, float weight_offset, float eps, int64_t tokens,
              int64_t dim, float* y) {
  const simd::Table& t = simd::table();
  parallel_chunks(tokens, dim, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      t.rms_norm(x + i * dim, weight, weight_offset, eps, dim, y + i * dim);
  });
}

void add_inplace(float* x, const float* y, int64_t n) {
  const simd::Table& t = simd::table();
  parallel_chunks(n, 1, [&](int64_t begin, int64_t end) { t.add(x + begin, y + begin, end - begin); });
}

void add_bias(float* x, int64_t ldx, const float* bias, int64_t tokens, int64_t dim) {
  const simd::Table& t = simd::table();
  parallel_chunks(tokens, dim, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) t.add(x + i * ldx, bias, dim);
  });
}

namespace {

void gated(void (*row)(const float*, const float*, int64_t, float*), const float* gate_up, int64_t tokens, int64_t dim, float* y) {
  parallel_chunks(tokens, 4 * dim, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float* gate = gate_up + i * 2 * dim;
      row(gate, gate + dim, dim, y + i * dim);
    }
  });
}

}  // namespace

void silu_mul(const float* gate_up, int64_t tokens, int64_t dim, float* y) { gated(simd::table().silu_mul, gate_up, tokens, dim, y); }
void gelu_mul(const float* gate_up, int64_t tokens, int64_t dim, float* y) { gated(simd::table().gelu_mul, gate_up, tokens, dim, y); }

void softcap(float* x, float cap, int64_t n) {
  constexpr int64_t kPart = 1 << 14;
  const simd::Table& t = simd::table();
  parallel_for((n + kPart - 1) / kPart, [&](int64_t i) { t.softcap(x + i * kPart, cap, std::min(kPart, n - i * kPart)); });
}

void embed(const Tensor& table, std::span<const int32_t> ids, float* y) {
  const simd::Table& t = simd::table();
  const int64_t vocab = table.dim(0), dim = table.dim(1), bytes = dim * dtype_size(table.dtype());
  for (const int32_t id : ids)
    if (id < 0 || id >= vocab) fail(Code::kBadArgument, "token id {}: expected 0 to {}", id, vocab - 1);
  const auto convert = t.to_f32[static_cast<int>(elem_of(table.dtype()))];
  parallel_chunks(static_cast<int64_t>(ids.size()), dim, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) convert(table.bytes() + ids[i] * bytes, y + i * dim, dim);
  });
}

namespace {

// cos and sin [tokens, pairs] of a step. Every layer, and queries as well as keys, ask for the same angles,
// and the double-precision cos and sin cost more than turning the vectors: the last ones are kept.
class AngleCache {
 public:
  void prepare(std::span<const int32_t> positions, std::span<const double> inv_freq, float magnitude) {
    if (magnitude == magnitude_ && equal(positions, positions_) && equal(inv_freq, inv_freq_)) return;
    const int64_t tokens = static_cast<int64_t>(positions.size()),
                  pairs = static_cast<int64_t>(inv_freq.size());
    positions_.assign(positions.begin(), positions.end());
    inv_freq_.assign(inv_freq.begin(), inv_freq.end());
    magnitude_ = magnitude;
    cos_.resize(static_cast<size_t>(tokens * pairs));
    sin_.resize(cos_.size());
    float* const c = cos_.data();
    float* const s = sin_.data();
    parallel_chunks(tokens, 32 * pairs, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        for (int64_t j = 0; j < pairs; ++j) {
          const double angle = static_cast<double>(positions[i]) * inv_freq[j];
          c[i * pairs + j] = static_cast<float>(std::cos(angle) * static_cast<double>(magnitude));
          s[i * pairs + j] = static_cast<float>(std::sin(angle) * static_cast<double>(magnitude));
        }
    });
  }
  const float* cos() const { return cos_.data(); }
  const float* sin() const { return sin_.data(); }

 private:
  template <class T>
  static bool equal(std::span<const T> a, const std::vector<T>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
  }
  std::vector<int32_t> positions_;
  std::vector<double> inv_freq_;
  float magnitude_ = 0;
  std::vector<float> cos_, sin_;
};

}  // namespace

void rope(float* x, int64_t ldx, int64_t tokens, int64_t heads, int64_t head_dim,
          std::span<const int32_t> positions, std::span<const double> inv_freq, float magnitude) {
  check_internal(static_cast<int64_t>(positions.size()) == tokens &&
                     2 * static_cast<int64_t>(inv_freq.size()) <= head_dim,
                 "rope: positions or frequencies do not fit the heads");
  if (tokens == 0 || inv_freq.empty()) return;
  thread_local AngleCache cache;
  cache.prepare(positions, inv_freq, magnitude);
  const simd::Table& t = simd::table();
  const int64_t pairs = static_cast<int64_t>(inv_freq.size());
  const float* const cos = cache.cos();
  const float* const sin = cache.sin();
  parallel_chunks(tokens, heads * head_dim, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      for (int64_t h = 0; h < heads; ++h)
        t.rotate(x + i * ldx + h * head_dim, cos + i * pairs, sin + i * pairs, pairs);
  });
}

void log_softmax_gather(const float* logits, int64_t tokens, int64_t vocab, const int32_t* target,
                        double* logprob) {
  const simd::Table& t = simd::table();
  for (int64_t i = 0; i < tokens; ++i)
    if (target[i] < 0 || target[i] >= vocab)
      fail(Code::kBadArgument, "target id {}: expected 0 to {}", target[i], vocab - 1);
  parallel_for(tokens, [&](int64_t i) {
    const float* row = logits + i * vocab;
    const float top = t.max(row, vocab);
    logprob[i] =
        static_cast<double>(row[target[i]]) - static_cast<double>(top) - std::log(t.exp_sum(row, vocab, top));
  });
}

void kl_divergence(const float* p_logits, const float* q_logits, int64_t tokens, int64_t vocab, double* kl,
                   uint8_t* same_top) {
  const simd::Table& t = simd::table();
  parallel_for(tokens, [&](int64_t i) {
    const float* p = p_logits + i * vocab;
    const float* q = q_logits + i * vocab;
    const float pmax = t.max(p, vocab), qmax = t.max(q, vocab);
    const simd::KlSums sums = t.kl_sums(p, q, vocab, pmax, qmax);
    // sum p (ln p - ln q) = E_p[p_logit - q_logit] - ln Zp + ln Zq
    kl[i] = sums.pd / sums.p - (static_cast<double>(pmax) + std::log(sums.p)) +
            (static_cast<double>(qmax) + std::log(sums.q));
    same_top[i] = t.first_equal(p, vocab, pmax) == t.first_equal(q, vocab, qmax);
  });
}

}  // namespace awq
