// Gram matrices and the losses read from them (quant_ops.h).
#include <algorithm>
#include <cstring>
#include <vector>

#include "base/thread_pool.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/simd_table.h"
#include "kernels/ops.h"
#include "kernels/quant_ops.h"

namespace awq {
namespace {

constexpr int64_t kChunkTokens = 256;
constexpr int64_t kMirrorTile = 32;

// One chunk of x, packed twice: as tiles of mr columns and as panels of nr columns, both [steps][columns]. A
// step is a token, or a pair of tokens in bf16.
struct PackedChunk {
  float *tiles, *panels;
  int64_t steps;
};

void pack_chunk(const simd::Table& t, bool bf16, const float* x, int64_t ldx, int64_t tokens, int64_t k,
                const PackedChunk& out) {
  const int64_t mr = t.mr, nr = t.nr;
  parallel_chunks(out.steps, 4 * k, [&](int64_t begin, int64_t end) {
    thread_local Scratch scratch;
    float* pairs = scratch.floats(k);
    for (int64_t s = begin; s < end; ++s) {
      const float* row = x + s * ldx;
      if (bf16) {
        t.pair_bf16(x + 2 * s * ldx, 2 * s + 1 < tokens ? x + (2 * s + 1) * ldx : nullptr, k, pairs);
        row = pairs;
      }
      for (int64_t c = 0; c < k; c += mr) {
        const int64_t n = std::min(mr, k - c);
        std::copy_n(row + c, n, out.tiles + c * out.steps + s * n);
      }
      for (int64_t c = 0; c < k; c += nr) {
        const int64_t n = std::min(nr, k - c);
        float* panel = out.panels + c * out.steps + s * nr;
        std::copy_n(row + c, n, panel);
        std::fill(panel + n, panel + nr, 0.0f);
      }
    }
  });
}

// g += the chunk's products in the tiles that touch the upper triangle of one panel's columns.
void add_panel(const simd::Table& t, bool bf16, const PackedChunk& x, int64_t panel, int64_t k, float* g) {
  const int64_t mr = t.mr, nr = t.nr, c0 = panel * nr, columns = std::min(nr, k - c0);
  const auto* micro = bf16 ? t.micro_bf16 : t.micro;
  const float* b = x.panels + c0 * x.steps;
  for (int64_t r0 = 0; r0 < std::min(k, c0 + columns); r0 += mr) {
    const int64_t rows = std::min(mr, k - r0);
    const float* a = x.tiles + r0 * x.steps;
    if (columns == nr) {
      micro[rows](x.steps, a, b, g + r0 * k + c0, k, true);
      continue;
    }
    float c[simd::kMaxMr * simd::kMaxNr];
    micro[rows](x.steps, a, b, c, nr, false);
    for (int64_t i = 0; i < rows; ++i) t.add(g + (r0 + i) * k + c0, c + i * nr, columns);
  }
}

// Copies the upper triangle to the lower one, in square tiles for the cache's sake.
void mirror(const simd::Table& t, float* g, int64_t k) {
  parallel_for(ceil_div(k, kMirrorTile), [&](int64_t block) {
    const int64_t r0 = block * kMirrorTile, rows = std::min(kMirrorTile, k - r0);
    for (int64_t c0 = 0; c0 < r0; c0 += kMirrorTile)
      t.transpose(g + c0 * k + r0, k, kMirrorTile, rows, g + r0 * k + c0, k);
    for (int64_t r = r0; r < r0 + rows; ++r)
      for (int64_t c = r0; c < r; ++c) g[r * k + c] = g[c * k + r];
  });
}

// The upper triangle of g += xᵀ x; what touches it below is written too.
void accumulate_upper(const float* x, int64_t ldx, int64_t tokens, int64_t k, float* g, bool bf16) {
  thread_local Scratch tiles, panels;
  const simd::Table& t = simd::table();
  const bool pairs = bf16 && t.bf16;
  const int64_t count = ceil_div(k, t.nr), most = std::min(tokens, kChunkTokens);
  PackedChunk packed{tiles.floats(k * most), panels.floats(count * t.nr * most), 0};
  for (int64_t t0 = 0; t0 < tokens; t0 += kChunkTokens) {
    const int64_t n = std::min(kChunkTokens, tokens - t0);
    packed.steps = pairs ? (n + 1) / 2 : n;
    pack_chunk(t, pairs, x + t0 * ldx, ldx, n, k, packed);
    // The last panel has the most tiles: first, so that no thread starts it last.
    parallel_for(count, [&](int64_t i) { add_panel(t, pairs, packed, count - 1 - i, k, g); });
  }
}

// <a, b> of symmetric matrices of which the upper triangles are given; rows in order.
double inner_product(const simd::Table& t, const float* a, const float* b, int64_t k) {
  thread_local std::vector<double> of_row;
  of_row.resize(static_cast<size_t>(k));
  double* sums = of_row.data();
  parallel_chunks(k, k, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t at = i * k + i;
      sums[i] = 2 * t.dot_double(a + at, b + at, k - i) - double{a[at]} * double{b[at]};
    }
  });
  double sum = 0;
  for (const double s : of_row) sum += s;
  return sum;
}

}  // namespace

void gram_accumulate(const float* x, int64_t ldx, int64_t tokens, int64_t k, float* g, bool bf16) {
  if (tokens <= 0 || k <= 0) return;
  accumulate_upper(x, ldx, tokens, k, g, bf16);
  mirror(simd::table(), g, k);
}

void gram_loss_rows(const float* e, int64_t rows, int64_t k, const float* g, double* loss, bool bf16) {
  constexpr int64_t kRows = 1008;
  thread_local Scratch scratch;
  const simd::Table& t = simd::table();
  float* product = scratch.floats(std::min(rows, kRows) * k);
  for (int64_t r0 = 0; r0 < rows; r0 += kRows) {
    const int64_t n = std::min(kRows, rows - r0);
    // G is symmetric: E Gᵀ = E G.
    if (bf16 && t.bf16)
      gemm(t, true, DensePanels(t, true, simd::Elem::kF32, g, k, k), e + r0 * k, k, n, k, k, product, k);
    else
      gemm_nt(e + r0 * k, k, g, k, product, k, n, k, k);
    parallel_chunks(n, k, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) loss[r0 + i] = t.dot_double(e + (r0 + i) * k, product + i * k, k);
    });
  }
}

double gram_loss(const float* e, int64_t rows, int64_t k, const float* g, bool bf16) {
  // tr(E G Eᵀ) = <Eᵀ E, G>: half of the products, where there are rows enough for EᵀE to be worth its own sums, and room for it.
  constexpr int64_t kFewRows = 32, kMostColumns = 4096;
  if (rows >= kFewRows && k <= kMostColumns) {
    thread_local Scratch scratch;
    float* own = scratch.floats(k * k);
    std::fill_n(own, k * k, 0.0f);
    accumulate_upper(e, k, rows, k, own, bf16);
    return inner_product(simd::table(), own, g, k);
  }
  std::vector<double> loss(static_cast<size_t>(rows));
  gram_loss_rows(e, rows, k, g, loss.data(), bf16);
  double sum = 0;
  for (const double l : loss) sum += l;
  return sum;
}

}  // namespace awq
