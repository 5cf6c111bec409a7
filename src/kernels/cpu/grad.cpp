// The backward pass's operations (grad_ops.h).
#include "kernels/grad_ops.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/thread_pool.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/simd_table.h"

namespace awq {
namespace {

// Panels of Wᵀ where w is [k, n]: its rows are steps as they lie.
class ColumnPanels : public PanelSource {
 public:
  ColumnPanels(const simd::Table& t, bool bf16, MatrixView w, int64_t n) : t_(t), bf16_(bf16), w_(w), n_(n) {}
  void pack(int64_t panel, int64_t k0, int64_t kn, float* out) const override {
    const int64_t first = panel * t_.nr, count = std::min<int64_t>(t_.nr, n_ - first), each = bf16_ ? 2 : 1;
    for (int64_t k = 0; k < kn; k += each, out += t_.nr) {
      const float* row = w_.data + (k0 + k) * w_.ld + first;
      if (bf16_)
        t_.pair_bf16(row, k + 1 < kn ? row + w_.ld : nullptr, count, out);
      else
        std::copy_n(row, count, out);
      std::fill(out + count, out + t_.nr, 0.0f);
    }
  }

 private:
  const simd::Table& t_;
  bool bf16_;
  MatrixView w_;
  int64_t n_;
};

// One span and key/value head of attention_backward.
struct HeadTask {
  const AttentionShape& shape;
  int64_t tokens;
  // At the span's first token and this key/value head, or its first query head.
  const float *q, *k, *v, *dy;
  float *dq, *dk, *dv;
  int64_t ldq, ldkv, lddq, lddkv;

  int64_t group() const { return shape.heads / shape.kv_heads; }
  int64_t lddy() const { return shape.heads * shape.head_dim; }
};

constexpr int64_t kQueryTile = 128;

class HeadBackward {
 public:
  void run(const HeadTask& task) {
    t_ = &simd::table();
    const int64_t dim = task.shape.head_dim, tile = std::min(kQueryTile, task.tokens);
    weights_.resize(static_cast<size_t>(tile * task.tokens));
    scores_.resize(weights_.size());
    part_.resize(static_cast<size_t>(task.tokens * dim));
    for (int64_t j = 0; j < task.tokens; ++j) {
      std::fill_n(task.dk + j * task.lddkv, dim, 0.0f);
      std::fill_n(task.dv + j * task.lddkv, dim, 0.0f);
    }
    for (int64_t h = 0; h < task.group(); ++h)
      for (int64_t begin = 0; begin < task.tokens; begin += kQueryTile)
        queries(task, h, begin, std::min(kQueryTile, task.tokens - begin));
  }

 private:
  // Queries [begin, begin + rows) of one head against all keys that any of them sees.
  void queries(const HeadTask& task, int64_t head, int64_t begin, int64_t rows) {
    const int64_t dim = task.shape.head_dim, window = task.shape.window;
    const int64_t first = window > 0 ? std::max<int64_t>(0, begin - window + 1) : 0, n = begin + rows - first;
    const MatrixView q{task.q + begin * task.ldq + head * dim, task.ldq},
        dy{task.dy + begin * task.lddy() + head * dim, task.lddy()};
    const MatrixView k{task.k + first * task.ldkv, task.ldkv}, v{task.v + first * task.ldkv, task.ldkv};
    float *p = weights_.data(), *ds = scores_.data();
    product_nt(q, k, p, n, rows, n, dim, false);
    product_nt(dy, v, ds, n, rows, n, dim, false);
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t end = begin + i + 1 - first, lo = window > 0 ? std::max<int64_t>(0, end - window) : 0;
      one_query(task.shape.scale, p + i * n, ds + i * n, lo, end, n);
    }
    product_nn({ds, n}, k, task.dq + begin * task.lddq + head * dim, task.lddq, rows, dim, n, false);
    add_product({ds, n}, q, n, dim, rows, task.dk + first * task.lddkv, task.lddkv);
    add_product({p, n}, dy, n, dim, rows, task.dv + first * task.lddkv, task.lddkv);
  }

  // p: scores, becomes the softmax's weights; ds: gradients of the weights, becomes those of the scores. Keys
  // [lo, end) are seen.
  void one_query(float scale, float* p, float* ds, int64_t lo, int64_t end, int64_t n) const {
    const int64_t seen = end - lo;
    const float top = t_->max(p + lo, seen);
    for (int64_t j = lo; j < end; ++j) p[j] = (p[j] - top) * scale;
    t_->exp(p + lo, p + lo, seen);
    t_->scale(p + lo, 1.0f / t_->sum(p + lo, seen), seen);
    const auto mean = static_cast<float>(t_->dot_double(p + lo, ds + lo, seen));
    for (int64_t j = lo; j < end; ++j) ds[j] = p[j] * (ds[j] - mean) * scale;
    std::fill(p, p + lo, 0.0f), std::fill(p + end, p + n, 0.0f);
    std::fill(ds, ds + lo, 0.0f), std::fill(ds + end, ds + n, 0.0f);
  }

  // out [m, dim] += xᵀ w.
  void add_product(MatrixView x, MatrixView w, int64_t m, int64_t dim, int64_t k, float* out, int64_t ld) {
    product_tn(x, w, part_.data(), dim, m, dim, k, false);
    for (int64_t j = 0; j < m; ++j) t_->add(out + j * ld, part_.data() + j * dim, dim);
  }

  const simd::Table* t_ = nullptr;
  std::vector<float> weights_, scores_, part_;
};

}  // namespace

void product_nt(MatrixView x, MatrixView w, float* y, int64_t ldy, int64_t m, int64_t n, int64_t k,
                bool bf16) {
  const simd::Table& t = simd::table();
  const bool pairs = bf16 && t.bf16;
  gemm(t, pairs, DensePanels(t, pairs, simd::Elem::kF32, w.data, w.ld, n), x.data, x.ld, m, n, k, y, ldy);
}

void product_nn(MatrixView x, MatrixView w, float* y, int64_t ldy, int64_t m, int64_t n, int64_t k,
                bool bf16) {
  const simd::Table& t = simd::table();
  const bool pairs = bf16 && t.bf16;
  gemm(t, pairs, ColumnPanels(t, pairs, w, n), x.data, x.ld, m, n, k, y, ldy);
}

void product_tn(MatrixView x, MatrixView w, float* y, int64_t ldy, int64_t m, int64_t n, int64_t k,
                bool bf16) {
  thread_local Scratch scratch;
  constexpr int64_t kTile = 64;
  const simd::Table& t = simd::table();
  float* turned = scratch.floats(m * k);
  parallel_for(ceil_div(m, kTile), [&](int64_t tile) {
    const int64_t i = tile * kTile, rows = std::min(kTile, m - i);
    for (int64_t j = 0; j < k; j += kTile)
      t.transpose(x.data + j * x.ld + i, x.ld, std::min(kTile, k - j), rows, turned + i * k + j, k);
  });
  product_nn({turned, k}, w, y, ldy, m, n, k, bf16);
}

void rms_norm_backward(MatrixView x, const float* weight, float eps, MatrixView dy, int64_t tokens,
                       int64_t heads, int64_t dim, float* dx, int64_t lddx) {
  parallel_chunks(tokens, 4 * heads * dim, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin * heads; i < end * heads; ++i) {
      const int64_t t = i / heads, at = i % heads * dim;
      const float *in = x.data + t * x.ld + at, *out = dy.data + t * dy.ld + at;
      float* to = dx + t * lddx + at;
      double squares = 0, along = 0;
      for (int64_t j = 0; j < dim; ++j) {
        squares += static_cast<double>(in[j]) * in[j];
        along += static_cast<double>(out[j]) * weight[j] * in[j];
      }
      const double r = 1 / std::sqrt(squares / static_cast<double>(dim) + static_cast<double>(eps));
      const auto scale = static_cast<float>(r),
                 pull = static_cast<float>(r * r * r * along / static_cast<double>(dim));
      for (int64_t j = 0; j < dim; ++j) to[j] = scale * weight[j] * out[j] - pull * in[j];
    }
  });
}

void silu_mul_backward(const float* gate_up, const float* dy, int64_t tokens, int64_t dim, float* d_gate_up) {
  const simd::Table& t = simd::table();
  parallel_chunks(tokens, 8 * dim, [&](int64_t begin, int64_t end) {
    thread_local Scratch scratch;
    float* power = scratch.floats(dim);
    for (int64_t i = begin; i < end; ++i) {
      const float *gate = gate_up + i * 2 * dim, *up = gate + dim, *d = dy + i * dim;
      float *d_gate = d_gate_up + i * 2 * dim, *d_up = d_gate + dim;
      t.scaled_copy(gate, -1, dim, power);
      t.exp(power, power, dim);
      for (int64_t j = 0; j < dim; ++j) {
        const float sigmoid = 1 / (1 + power[j]);
        d_gate[j] = d[j] * up[j] * sigmoid * (1 + gate[j] * (1 - sigmoid));
        d_up[j] = d[j] * gate[j] * sigmoid;
      }
    }
  });
}

void attention_backward(const AttentionShape& shape, std::span<const SpanView> spans, const float* q,
                        int64_t ldq, const float* k, const float* v, int64_t ldkv, const float* dy, float* dq,
                        int64_t lddq, float* dk, float* dv, int64_t lddkv) {
  check_internal(shape.kv_heads > 0 && shape.heads % shape.kv_heads == 0,
                 "attention: heads is not a multiple of kv_heads");
  const int64_t group = shape.heads / shape.kv_heads, dim = shape.head_dim;
  parallel_for(static_cast<int64_t>(spans.size()) * shape.kv_heads, [&](int64_t i) {
    thread_local HeadBackward head;
    const SpanView& span = spans[static_cast<size_t>(i / shape.kv_heads)];
    const int64_t kv = i % shape.kv_heads, t = span.first, at = kv * dim, query = kv * group * dim;
    head.run({shape, span.tokens, q + t * ldq + query, k + t * ldkv + at, v + t * ldkv + at,
              dy + t * shape.heads * dim + query, dq + t * lddq + query, dk + t * lddkv + at,
              dv + t * lddkv + at, ldq, ldkv, lddq, lddkv});
  });
}

}  // namespace awq
