// H read backwards is L Lᵀ, and L⁻¹ read backwards is the U wanted. Both steps are right-looking over blocks
// of kBlock columns: what is left to do is a list of independent tiles, each with its sums in one fixed
// order.
#include "kernels/quant_factor.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/progress.h"
#include "base/system.h"
#include "base/thread_pool.h"
#include "tensor/tensor.h"

namespace awq {
namespace {

using namespace factor;

constexpr int64_t kBlock = 128;

using Product = decltype(&portable::subtract_product);
Product pick() {
  switch (isa()) {
    case Isa::kPortable:
      return portable::subtract_product;
    case Isa::kAvx2:
      return avx2::subtract_product;
    case Isa::kAvx512:
    case Isa::kAvx512Bf16:
      return avx512::subtract_product;
  }
  return portable::subtract_product;
}

// Doubles at a multiple of 64 bytes.
class Doubles {
 public:
  explicit Doubles(int64_t n) : storage_(DType::kF32, {2 * n}) {}
  double* data() { return reinterpret_cast<double*>(storage_.f32()); }

 private:
  Tensor storage_;
};

// Tiles of `width` rows of a, [depth][width] each, times `sign`.
void pack_rows(const double* a, int64_t lda, int64_t rows, int64_t depth, int64_t width, double sign,
               double* out) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t p = 0; p < depth; ++p)
      out[(r / width * depth + p) * width + r % width] = sign * a[r * lda + p];
}
// Panels of kCols columns of b, [depth][kCols] each.
void pack_columns(const double* b, int64_t ldb, int64_t depth, int64_t columns, double* out) {
  for (int64_t c = 0; c < columns; c += kCols)
    for (int64_t p = 0; p < depth; ++p) std::copy_n(b + p * ldb + c, kCols, out + c * depth + p * kCols);
}

class Factorization {
 public:
  Factorization(const float* h, int64_t k)
      : k_(k),
        n_((k + kCols - 1) / kCols * kCols),
        blocks_((n_ + kBlock - 1) / kBlock),
        product_(pick()),
        l_(n_ * n_),
        diagonal_(blocks_ * kBlock * kBlock),
        tiles_(n_ * kBlock),
        panels_(n_ * kBlock) {
    double* l = l_.data();
    parallel_for(n_, [&](int64_t i) {
      for (int64_t j = 0; j < n_; ++j)
        l[i * n_ + j] = i < k_ && j < k_ ? h[(k_ - 1 - i) * k_ + k_ - 1 - j] : i == j ? 1.0 : 0.0;
    });
  }

  bool run(float* out) {
    for (int64_t b = 0; b < blocks_; ++b) {
      check_cancelled();
      if (!factor_diagonal(b)) return false;
      solve_below(b);
      update_trailing(b);
    }
    for (int64_t b = 0; b < blocks_; ++b) {
      check_cancelled();
      finish_inverse(b);
      update_inverse(b);
    }
    return write(out);
  }

 private:
  int64_t begin(int64_t b) const { return b * kBlock; }
  int64_t size(int64_t b) const { return std::min(kBlock, n_ - begin(b)); }
  double* at(int64_t i, int64_t j) { return l_.data() + i * n_ + j; }
  double* inverse(int64_t b) { return diagonal_.data() + b * kBlock * kBlock; }  // row stride kBlock

  // The block's own factor, and the inverse of that.
  bool factor_diagonal(int64_t b) {
    const int64_t m = size(b);
    double *a = at(begin(b), begin(b)), *x = inverse(b);
    for (int64_t j = 0; j < m; ++j) {
      double pivot = a[j * n_ + j];
      for (int64_t p = 0; p < j; ++p) pivot -= a[j * n_ + p] * a[j * n_ + p];
      if (!(pivot > 0) || !std::isfinite(pivot)) return false;
      pivot = a[j * n_ + j] = std::sqrt(pivot);
      for (int64_t i = j + 1; i < m; ++i) {
        double sum = a[i * n_ + j];
        for (int64_t p = 0; p < j; ++p) sum -= a[i * n_ + p] * a[j * n_ + p];
        a[i * n_ + j] = sum / pivot;
      }
    }
    std::fill(x, x + kBlock * kBlock, 0.0);
    for (int64_t i = 0; i < m; ++i) {
      x[i * kBlock + i] = 1 / a[i * n_ + i];
      for (int64_t p = 0; p < i; ++p)
        for (int64_t j = 0; j <= p; ++j)
          x[i * kBlock + j] -= a[i * n_ + p] * x[p * kBlock + j] / a[i * n_ + i];
    }
    return true;
  }

  // c -= a b for tiles of packed a and panels of packed b. First: the first row and column of c, which starts
  // at `c`.
  void subtract(const double* a, const double* b, int64_t depth, int64_t rows, int64_t columns, double* c,
                int64_t ldc) const {
    for (int64_t j = 0; j < columns; j += kCols)
      for (int64_t i = 0; i < rows; i += kRows)
        product_(a + i * depth, b + j * depth, depth, c + i * ldc + j, ldc);
  }

  // The rows below block b become rows of L: times the inverse of the block's factor, transposed.
  void solve_below(int64_t b) {
    const int64_t m = size(b), first = begin(b) + m;
    pack_rows(inverse(b), kBlock, m, m, kCols, -1, panels_.data());
    parallel_for(blocks_ - b - 1, [&](int64_t i) {
      const int64_t r = first + i * kBlock, rows = std::min(kBlock, n_ - r);
      double* tiles = tiles_.data() + r * kBlock;
      pack_rows(at(r, begin(b)), n_, rows, m, kRows, 1, tiles);
      clear(r, rows, begin(b), m);
      subtract(tiles, panels_.data(), m, rows, m, at(r, begin(b)), n_);
    });
  }

  // What is right of block b and below, less the product of its rows; the lower triangle only.
  void update_trailing(int64_t b) {
    const int64_t m = size(b), left = blocks_ - b - 1;
    parallel_for(left, [&](int64_t i) {
      const int64_t r = begin(b + 1 + i), rows = size(b + 1 + i);
      pack_rows(at(r, begin(b)), n_, rows, m, kRows, 1, tiles_.data() + r * kBlock);
      pack_rows(at(r, begin(b)), n_, rows, m, kCols, 1, panels_.data() + r * kBlock);
    });
    parallel_for(left * (left + 1) / 2, [&](int64_t task) {
      const auto [i, j] = below_diagonal(task);
      const int64_t r = begin(b + 1 + i), c = begin(b + 1 + j);
      subtract(tiles_.data() + r * kBlock, panels_.data() + c * kBlock, m, size(b + 1 + i), size(b + 1 + j),
               at(r, c), n_);
    });
  }

  // Row block b of the inverse, of which the sums over earlier blocks are there, negated.
  void finish_inverse(int64_t b) {
    const int64_t m = size(b), r = begin(b);
    pack_rows(inverse(b), kBlock, m, m, kRows, -1, tiles_.data());
    parallel_for(b, [&](int64_t j) {
      double* panels = panels_.data() + begin(j) * kBlock;
      pack_columns(at(r, begin(j)), n_, m, kBlock, panels);
      clear(r, m, begin(j), kBlock);
      subtract(tiles_.data(), panels, m, m, kBlock, at(r, begin(j)), n_);
    });
    for (int64_t i = 0; i < m; ++i) std::copy_n(inverse(b) + i * kBlock, m, at(r + i, r));
  }

  // The share of row block b in the rows of the inverse below it. L's own blocks below give way to it.
  void update_inverse(int64_t b) {
    const int64_t m = size(b), left = blocks_ - b - 1;
    parallel_for(left, [&](int64_t i) {
      const int64_t r = begin(b + 1 + i), rows = size(b + 1 + i);
      pack_rows(at(r, begin(b)), n_, rows, m, kRows, 1, tiles_.data() + r * kBlock);
      clear(r, rows, begin(b), m);
    });
    parallel_for(b + 1, [&](int64_t j) {
      pack_columns(at(begin(b), begin(j)), n_, m, size(j), panels_.data() + begin(j) * kBlock);
    });
    parallel_for(left * (b + 1), [&](int64_t task) {
      const int64_t i = b + 1 + task / (b + 1), j = task % (b + 1);
      subtract(tiles_.data() + begin(i) * kBlock, panels_.data() + begin(j) * kBlock, m, size(i), size(j),
               at(begin(i), begin(j)), n_);
    });
  }

  void clear(int64_t r, int64_t rows, int64_t c, int64_t columns) {
    for (int64_t i = r; i < r + rows; ++i) std::fill_n(at(i, c), columns, 0.0);
  }

  // Row and column of the task-th entry of a lower triangle.
  static std::pair<int64_t, int64_t> below_diagonal(int64_t task) {
    auto row = static_cast<int64_t>((std::sqrt(8.0 * static_cast<double>(task) + 1) - 1) / 2);
    while (row * (row + 1) / 2 > task) --row;
    while ((row + 1) * (row + 2) / 2 <= task) ++row;
    return {row, task - row * (row + 1) / 2};
  }

  bool write(float* out) {
    std::vector<uint8_t> finite(static_cast<size_t>(k_), 1);
    parallel_for(k_, [&](int64_t j) {
      for (int64_t i = 0; i < k_; ++i) {
        const double u = i <= j ? *at(k_ - 1 - i, k_ - 1 - j) : 0;
        if (!std::isfinite(u)) finite[j] = 0;
        out[j * k_ + i] = static_cast<float>(u);
      }
    });
    return std::all_of(finite.begin(), finite.end(), [](uint8_t f) { return f != 0; });
  }

  int64_t k_, n_, blocks_;
  Product product_;
  Doubles l_, diagonal_, tiles_, panels_;
};

}  // namespace

bool inverse_factor(const float* h, int64_t k, float* factor) {
  return k > 0 && Factorization(h, k).run(factor);
}

}  // namespace awq
