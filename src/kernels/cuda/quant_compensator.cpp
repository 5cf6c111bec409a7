// Error compensation on a GPU: the factor of the inverse Gram matrix in blocks, then GPTQ, coordinate descent and the scales' turns for
// many rows at a time (kernels/quant_compensate.cpp has the CPU's).
#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/progress.h"
#include "kernels/cuda/quant_backend.h"

namespace awq::cuda {
namespace {

template <class T>
T* as(const std::shared_ptr<void>& memory) {
  return static_cast<T*>(memory.get());
}

class CudaCompensator : public Compensator {
 public:
  CudaCompensator(CudaQuantBackend& backend, DeviceGram& g, double damping) : backend_(backend), cols_(g.dim) {
    const auto device_diagonal = memory().take(cols_ * 4);
    check(launch_read_diagonal(g.at(), cols_, as<float>(device_diagonal), stream()), "reading a diagonal");
    std::vector<float> diagonal(static_cast<size_t>(cols_));
    backend_.download(diagonal.data(), device_diagonal.get(), cols_ * 4);
    // Most active channels first; equal ones in their order.
    std::vector<int32_t> order(static_cast<size_t>(cols_));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return diagonal[a] > diagonal[b]; });
    order_ = backend_.uploaded(order);
    double mean = 0;
    for (const float d : diagonal) mean += d;
    mean /= static_cast<double>(cols_);
    for (double add = damping * mean; add > 0 && std::isfinite(add) && !factor_; add *= 10) {
      std::vector<float> damped = diagonal;
      for (float& d : damped) d = static_cast<float>(d + add);
      backend_.upload(device_diagonal.get(), damped.data(), cols_ * 4);
      make_factor(g.at(), as<float>(device_diagonal));
      if (add > mean) break;
    }
    if (!factor_) return;
    gram_.dim = cols_;
    gram_.values = memory().take(cols_ * cols_ * 4);
    copy(gram_.at(), g.at(), cols_ * cols_ * 4);
    check(launch_write_diagonal(gram_.at(), cols_, as<float>(device_diagonal), stream()), "damping");
  }

  void improve(const QuantMatrix& w, int sweeps, int refits, RoundedWeight& q) const override {
    if (!factor_) return;  // nothing was ever activated: any rounding is as good
    const RoundingView& all = static_cast<DeviceRounding*>(q.device.get())->view;
    // Errors, residuals, changes, centred codes and images in fp32, two sets of codes, halves for the products.
    const int64_t each = rows_at_once(all.rows, refits > 0 ? cols_ * 24 + all.groups() * all.groups() * 4 : cols_ * 16);
    for (int64_t first = 0; first < all.rows; first += each) {
      check_cancelled();
      RoundingView part = all;
      part.rows = std::min(each, all.rows - first);
      part.codes += first * cols_, part.scales += first * part.groups(), part.zeros += first * part.groups();
      improve_rows(floats(w) + first * cols_, sweeps, refits, part);
    }
  }

 private:
  cudaStream_t stream() const { return backend_.stream(); }
  DeviceMemory& memory() const { return backend_.memory(); }
  QuantBlas& blas() const { return backend_.blas(); }
  const int* order() const { return as<int>(order_); }

  // U, upper, with UᵀU = H⁻¹ in the columns' order: H read backwards is L Lᵀ, and U is L⁻¹ read backwards. None where H is not
  // positive definite.
  void make_factor(const float* gram, const float* diagonal) {
    const int64_t n = cols_;
    const auto h_memory = memory().take(n * n * 8), diagonals = memory().take((n + kFactorBlock) * kFactorBlock * 8),
               panel_memory = memory().take(n * kFactorBlock * 8), flag = memory().take(4);
    auto *h = as<double>(h_memory), *panel = as<double>(panel_memory);
    const auto inverse_at = [&](int64_t j) { return as<double>(diagonals) + j * kFactorBlock; };
    check(cudaMemsetAsync(flag.get(), 0, 4, stream()), "clearing a flag");
    check(launch_reversed(gram, diagonal, order(), n, h, stream()), "reordering a Gram matrix");
    for (int64_t j = 0; j < n; j += kFactorBlock) {
      const int64_t nb = std::min<int64_t>(kFactorBlock, n - j), below = n - j - nb;
      double *corner = h + j * n + j, *column = corner + nb;
      check(launch_factor_block(corner, n, static_cast<int>(nb), inverse_at(j), as<int>(flag), stream()), "factoring");
      blas().multiply(true, below, nb, nb, 1, column, n, inverse_at(j), kFactorBlock, 0, panel, n);
      copy_panel(panel, below, nb, column);
      blas().subtract_square(below, nb, column, n, column + nb * n, n);
    }
    int failed = 0;
    backend_.download(&failed, flag.get(), 4);
    if (failed != 0) return;
    // L⁻¹ in place, from the last columns to the first.
    for (int64_t j = (n - 1) / kFactorBlock * kFactorBlock; j >= 0; j -= kFactorBlock) {
      const int64_t nb = std::min<int64_t>(kFactorBlock, n - j), below = n - j - nb;
      double *corner = h + j * n + j, *column = corner + nb;
      blas().multiply_lower(below, nb, column + nb * n, n, column, n, panel, n);
      blas().multiply(false, below, nb, nb, -1, panel, n, inverse_at(j), kFactorBlock, 0, column, n);
      check(launch_place_block(corner, n, static_cast<int>(nb), inverse_at(j), stream()), "inverting");
    }
    factor_ = memory().take(n * n * 4);
    check(launch_upper_factor(h, n, as<float>(factor_), stream()), "storing a factor");
  }

  void copy_panel(const double* panel, int64_t rows, int64_t cols, double* to) const {
    if (rows == 0) return;
    check(cudaMemcpy2DAsync(to, static_cast<size_t>(cols_ * 8), panel, static_cast<size_t>(cols_ * 8), static_cast<size_t>(rows * 8),
                            static_cast<size_t>(cols), cudaMemcpyDeviceToDevice, stream()),
          "copying a panel");
  }

  // What improve_rows works with, for some rows.
  struct Rows {
    const float* w;
    RoundingView q;  // the codes and scales in progress
    float *error, *residual, *change;
    double* loss;
  };

  void improve_rows(const float* w, int sweeps, int refits, const RoundingView& kept) const {
    const int64_t rows = kept.rows, pairs = rows * kept.groups();
    const auto codes = memory().take(rows * cols_), scales = memory().take(pairs * 4), error = memory().take(rows * cols_ * 4),
               residual = memory().take(rows * cols_ * 4), change = memory().take(rows * kColumnBlock * 4), best = memory().take(rows * 8),
               after = memory().take(rows * 8);
    Rows r{w, kept, as<float>(error), as<float>(residual), as<float>(change), nullptr};
    r.q.codes = as<uint8_t>(codes), r.q.scales = as<float>(scales);
    copy(r.q.codes, kept.codes, rows * cols_);
    copy(r.q.scales, kept.scales, pairs * 4);

    measure(r, as<double>(best));
    gptq(r);
    descend(r, sweeps, as<double>(after));
    check(launch_keep_better(as<double>(after), as<double>(best), r.q, kept, stream()), "keeping rows");
    if (refits == 0) return;
    const auto image = memory().take(rows * cols_ * 4), normal = memory().take(pairs * kept.groups() * 4), right = memory().take(pairs * 4);
    for (int turn = 0; turn < refits; ++turn) {
      fit_scales(r, as<float>(image), as<float>(normal), as<float>(right));
      descend(r, sweeps, as<double>(after));
      check(launch_keep_better(as<double>(after), as<double>(best), r.q, kept, stream()), "keeping rows");
    }
  }

  void copy(void* to, const void* from, int64_t bytes) const {
    check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice, stream()), "copying");
  }

  // residual = G e for e = w - Q, and the loss of each row.
  void measure(const Rows& r, double* loss) const {
    check(launch_rounding_error(r.w, r.q, r.error, stream()), "measuring a rounding");
    backend_.times_gram(r.error, r.q.rows, gram_, r.residual);
    check(launch_row_dots(r.error, r.residual, r.q.rows, cols_, loss, stream()), "summing losses");
  }

  // c [rows, n] += alpha a [rows, k] b [k, n] for k <= kColumnBlock: on the tensor cores where there is enough to do.
  void add_product(int64_t rows, int64_t n, int64_t k, float alpha, const float* a, int64_t lda, const float* b, int64_t ldb, float beta,
                   float* c, int64_t ldc) const {
    if (n <= 0) return;
    if (n < 256 || n % 8 != 0 || k % 8 != 0) return blas().multiply(rows, n, k, alpha, {a, lda}, {b, ldb}, beta, {c, ldc});
    const auto across = memory().take(rows * k * 6), below = memory().take(n * k * 6);
    check(launch_split_across(a, lda, rows, k, across.get(), stream()), "splitting a matrix");
    check(launch_split_below(b, ldb, k, n, below.get(), stream()), "splitting a matrix");
    blas().multiply_bf16(rows, n, 3 * k, alpha, across.get(), 3 * k, below.get(), n, beta, {c, ldc});
  }

  // `error` is scratch for the weights in the columns' order.
  void gptq(const Rows& r) const {
    check(launch_gather_columns(r.w, order(), r.q.rows, cols_, r.error, stream()), "reordering columns");
    for (int64_t first = 0; first < cols_; first += kColumnBlock) {
      const int64_t width = std::min<int64_t>(kColumnBlock, cols_ - first), next = first + width;
      check(launch_gptq_block(r.error, as<float>(factor_), order(), first, r.q, r.change, stream()), "rounding a block of columns");
      add_product(r.q.rows, cols_ - next, width, -1, r.change, kColumnBlock, as<float>(factor_) + first * cols_ + next, cols_, 1,
                  r.error + next, cols_);
    }
  }

  // Passes of coordinate descent, and the losses after them.
  void descend(const Rows& r, int sweeps, double* loss) const {
    measure(r, loss);
    if (sweeps == 0) return;
    const auto picked = memory().take(kColumnBlock * cols_ * 4), inner = memory().take(kColumnBlock * kColumnBlock * 4);
    for (int sweep = 0; sweep < sweeps; ++sweep)
      for (int64_t first = 0; first < cols_; first += kColumnBlock) {
        check(launch_pick_rows(gram_.at(), order(), first, cols_, as<float>(picked), as<float>(inner), stream()), "picking rows");
        check(launch_descent_block(r.residual, as<float>(inner), order(), first, r.q, r.change, stream()), "improving a block of columns");
        add_product(r.q.rows, cols_, kColumnBlock, -1, r.change, kColumnBlock, as<float>(picked), cols_, 1, r.residual, cols_);
      }
    measure(r, loss);  // afresh: the updates above have gathered rounding
  }

  // With c_g the codes less zero point of group g: normal [g][h] = c_g G c_h, right [g] = c_g G w, and the scales that solve them.
  void fit_scales(const Rows& r, float* image, float* normal, float* right) const {
    const int64_t rows = r.q.rows, groups = r.q.groups(), group = r.q.group;
    float* centred = r.error;
    check(launch_centred_codes(r.q, centred, stream()), "reading codes");
    backend_.times_gram(r.w, rows, gram_, image);
    check(launch_group_dots(centred, cols_, image, cols_, rows, static_cast<int>(groups), static_cast<int>(group), right, groups, stream()),
          "summing");
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t known = (g + 1) * group;  // columns of the groups up to this one
      multiply_group(rows, known, group, centred + g * group, gram_.at() + g * group * cols_, image);
      check(launch_group_dots(centred, cols_, image, cols_, rows, static_cast<int>(g + 1), static_cast<int>(group), normal + g * groups,
                              groups * groups, stream()),
            "summing");
    }
    const int bytes = refit_shared_bytes(static_cast<int>(groups));
    const auto work = memory().take(bytes > backend_.shared_limit() - 1024 ? int64_t{bytes} * kRefitBlocks : 0);
    check(launch_refit(normal, right, r.q, as<double>(work), backend_.shared_limit(), stream()), "fitting scales");
  }

  // image [rows, n] = the group's centred codes times its rows of G.
  void multiply_group(int64_t rows, int64_t n, int64_t group, const float* centred, const float* gram, float* image) const {
    if (group <= kColumnBlock) return add_product(rows, n, group, 1, centred, cols_, gram, cols_, 0, image, cols_);
    blas().multiply(rows, n, group, 1, {centred, cols_}, {gram, cols_}, 0, {image, cols_});
  }

  CudaQuantBackend& backend_;
  int64_t cols_;
  mutable DeviceGram gram_;  // damped
  std::shared_ptr<void> order_, factor_;
};

}  // namespace

std::unique_ptr<Compensator> make_compensator(CudaQuantBackend& backend, DeviceGram& g, double damping) {
  return std::make_unique<CudaCompensator>(backend, g, damping);
}

}  // namespace awq::cuda
