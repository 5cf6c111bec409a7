#include "kernels/quant_backend.h"

#include <algorithm>
#include <cmath>

#include "base/thread_pool.h"

namespace awq {

void multiply_columns(float* w, int64_t rows, int64_t cols, const float* s) {
  parallel_chunks(rows, cols, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n)
      for (int64_t k = 0; k < cols; ++k) w[n * cols + k] *= s[k];
  });
}

void rounding_error(const float* w, const QuantWeight& q, float* e) {
  dequantize(q, e);
  parallel_chunks(q.rows, q.cols, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin * q.cols; i < end * q.cols; ++i) e[i] = w[i] - e[i];
  });
}

namespace {

class CpuCompensator : public Compensator {
 public:
  CpuCompensator(const GramView& g, double damping) : compensation_(g.host, g.dim, damping) {}
  void improve(const QuantMatrix& w, int sweeps, int refits, RoundedWeight& q) const override {
    compensation_.improve(w.f32(), sweeps, refits, q);
  }

 private:
  Compensation compensation_;
};

class CpuBackend : public QuantBackend {
 public:
  QuantMatrix load(const Tensor& w) override {
    check_internal(w.dtype() == DType::kF32, "a weight to quantize that is not F32");
    return w;
  }
  QuantMatrix load(const QuantWeight& w) override {
    Tensor dense(DType::kF32, {w.rows, w.cols});
    dequantize(w, dense.f32());
    return dense;
  }
  Tensor read(const QuantMatrix& w) override { return w; }

  QuantMatrix gather(const std::vector<Rows>& rows) override {
    const int64_t cols = rows.front().from->dim(1);
    std::vector<float> values;
    for (const Rows& r : rows)
      for (int64_t n = r.first; n < r.from->dim(0); n += r.step) {
        const float* row = r.from->f32() + n * cols;
        values.insert(values.end(), row, row + cols);
      }
    return Tensor::from(values, {static_cast<int64_t>(values.size()) / cols, cols});
  }

  QuantMatrix scaled(const QuantMatrix& w, const std::vector<float>& s) override {
    QuantMatrix out = w.clone();
    scale_columns(out, s);
    return out;
  }

  void scale_columns(QuantMatrix& w, const std::vector<float>& s) override {
    multiply_columns(w.f32(), w.dim(0), w.dim(1), s.data());
  }

  void divide_rows(QuantMatrix& w, int64_t first, const std::vector<float>& s) override {
    const int64_t cols = w.dim(1);
    float* to = w.f32() + first * cols;
    parallel_chunks(static_cast<int64_t>(s.size()), cols, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r)
        for (int64_t k = 0; k < cols; ++k) to[r * cols + k] /= s[r];
    });
  }

  void add_relative_magnitudes(const QuantMatrix& w, int64_t group, std::vector<double>& sum) override {
    const int64_t cols = w.dim(1);
    for (int64_t r = 0; r < w.dim(0); ++r) {
      const float* row = w.f32() + r * cols;
      for (int64_t at = 0; at < cols; at += group) {
        float largest = 0;
        for (int64_t k = at; k < at + group; ++k) largest = std::max(largest, std::fabs(row[k]));
        const float inverse = 1.0f / (largest + 1e-6f);
        for (int64_t k = at; k < at + group; ++k) sum[k] += std::fabs(row[k]) * inverse;
      }
    }
  }

  GramMatrix load_gram(std::vector<float> g, int64_t dim) override { return {dim, std::move(g)}; }
  std::vector<float> read_gram(const GramView& g) override { return {g.host, g.host + g.dim * g.dim}; }

  GramMatrix scaled_gram(const GramView& g, const std::vector<float>& s) override {
    GramMatrix out{g.dim, std::vector<float>(static_cast<size_t>(g.dim * g.dim))};
    parallel_chunks(g.dim, g.dim, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const float a = 1.0f / s[i];
        for (int64_t j = 0; j < g.dim; ++j) out.host[i * g.dim + j] = g.host[i * g.dim + j] * a / s[j];
      }
    });
    return out;
  }

  double minmax_loss(const QuantMatrix& w, const Scheme& scheme, DType scale_dtype, const std::vector<float>& channel_scale,
                     const GramView& g) override {
    Tensor error(DType::kF32, w.shape());
    minmax_error(w.f32(), w.dim(0), w.dim(1), scheme, scale_dtype, channel_scale.data(), error.f32());
    return gram_loss(error.f32(), w.dim(0), w.dim(1), g.host, true);
  }
  RoundedWeight minmax(const QuantMatrix& w, const Scheme& scheme, DType scale_dtype) override {
    return quantize_minmax(w.f32(), w.dim(0), w.dim(1), scheme, scale_dtype);
  }
  RoundedWeight search(const QuantMatrix& w, const Scheme& scheme, DType scale_dtype, const GramView& g, RangeEffort effort) override {
    return range_search(w.f32(), w.dim(0), w.dim(1), scheme, scale_dtype, g.host, effort);
  }
  double loss(const QuantMatrix& w, const RoundedWeight& q, const GramView& g, bool comparing) override {
    Tensor error(DType::kF32, w.shape());
    float* e = error.f32();
    rounding_error(w.f32(), q, e);
    return gram_loss(e, w.dim(0), w.dim(1), g.host, comparing);
  }
  double energy(const QuantMatrix& w, const GramView& g) override { return gram_loss(w.f32(), w.dim(0), w.dim(1), g.host); }
  std::unique_ptr<Compensator> compensation(const GramView& g, double damping) override {
    return std::make_unique<CpuCompensator>(g, damping);
  }
  void fetch(RoundedWeight&) override {}
};

}  // namespace

QuantBackend& cpu_quant_backend() {
  static CpuBackend backend;
  return backend;
}

}  // namespace awq
