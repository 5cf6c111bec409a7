#include "kernels/cpu/gemm.h"

#include <algorithm>
#include <cstring>

#include "base/thread_pool.h"
#include "kernels/cpu/scratch.h"
#include "kernels/ops.h"

namespace awq {
namespace {

constexpr int64_t kMaxKBlock = 256;     // a panel block (32 KiB at 32 columns) stays in the first-level cache
constexpr int64_t kMaxRowBlock = 1008;  // rows of x packed at a time
constexpr int64_t kMinRowsPerTask = 256;  // a weight panel is dequantized once per so many rows

// Blocks of equal length, a multiple of 8 so that a 4-bit word is not split and pairs stay together.
int64_t k_block(int64_t k) { return round_up(ceil_div(k, ceil_div(k, kMaxKBlock)), 8); }

// Packed x: tiles of mr rows, each [steps][rows of the tile].
struct PackedRows {
  const float* data;
  int64_t rows, steps;
};

struct Problem {
  const simd::Table& t;
  bool bf16;
  const PanelSource& w;
  int64_t n, k;
};

void multiply_tile(const Problem& p, const PackedRows& x, int64_t tile, int64_t step0, int64_t steps,
                   const float* panel, int64_t columns, float* y, int64_t ldy) {
  const int64_t mr = p.t.mr, rows = std::min(mr, x.rows - tile * mr);
  const float* a = x.data + tile * mr * x.steps + step0 * rows;
  const auto micro = (p.bf16 ? p.t.micro_bf16 : p.t.micro)[rows];
  if (columns == p.t.nr) return micro(steps, a, panel, y, ldy, step0 > 0);
  float c[simd::kMaxMr * simd::kMaxNr];
  micro(steps, a, panel, c, p.t.nr, false);
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j)
      y[i * ldy + j] = step0 > 0 ? y[i * ldy + j] + c[i * p.t.nr + j] : c[i * p.t.nr + j];
}

// Tiles [tile0, tile1) of x against one panel of W.
void multiply_panel(const Problem& p, const PackedRows& x, int64_t tile0, int64_t tile1, int64_t panel,
                    float* y, int64_t ldy) {
  thread_local Scratch scratch;
  const int64_t nr = p.t.nr, block = k_block(p.k), per_step = p.bf16 ? 2 : 1;
  float* b = scratch.floats(block * nr);
  const int64_t columns = std::min(nr, p.n - panel * nr);
  for (int64_t k0 = 0; k0 < p.k; k0 += block) {
    const int64_t kn = std::min(block, p.k - k0);
    p.w.pack(panel, k0, kn, b);
    for (int64_t tile = tile0; tile < tile1; ++tile)
      multiply_tile(p, x, tile, k0 / per_step, ceil_div(kn, per_step), b, columns,
                    y + tile * p.t.mr * ldy + panel * nr, ldy);
  }
}

void multiply_rows(const Problem& p, const float* x, int64_t ldx, int64_t m, float* y, int64_t ldy) {
  thread_local Scratch scratch;
  const int64_t mr = p.t.mr, tiles = ceil_div(m, mr), panels = ceil_div(p.n, p.t.nr);
  const int64_t steps = p.bf16 ? (p.k + 1) / 2 : p.k;
  float* packed = scratch.floats(m * steps);
  parallel_for(tiles, [&](int64_t i) {
    const int rows = static_cast<int>(std::min(mr, m - i * mr));
    (p.bf16 ? p.t.pack_a_bf16 : p.t.pack_a)(x + i * mr * ldx, ldx, rows, p.k, packed + i * mr * steps);
  });
  // Enough tasks for all threads; the split does not change any sum.
  int64_t groups = 1;
  while (panels * groups < 4 * threads() && m / (groups + 1) >= kMinRowsPerTask) ++groups;
  const int64_t tiles_each = ceil_div(tiles, groups);
  const PackedRows rows{packed, m, steps};
  parallel_for(panels * groups, [&](int64_t i) {
    const int64_t tile0 = i / panels * tiles_each;
    multiply_panel(p, rows, tile0, std::min(tiles, tile0 + tiles_each), i % panels, y, ldy);
  });
}

}  // namespace

void gemm(const simd::Table& t, bool bf16, const PanelSource& w, const float* x, int64_t ldx, int64_t m,
          int64_t n, int64_t k, float* y, int64_t ldy) {
  if (m <= 0 || n <= 0) return;
  if (k == 0) {
    for (int64_t i = 0; i < m; ++i) std::memset(y + i * ldy, 0, sizeof(float) * static_cast<size_t>(n));
    return;
  }
  const Problem problem{t, bf16, w, n, k};
  const int64_t block = round_up(ceil_div(m, ceil_div(m, kMaxRowBlock)), t.mr);
  for (int64_t i = 0; i < m; i += block)
    multiply_rows(problem, x + i * ldx, ldx, std::min(block, m - i), y + i * ldy, ldy);
}

void DensePanels::pack(int64_t panel, int64_t k0, int64_t kn, float* out) const {
  const void* rows[simd::kMaxNr];
  const int64_t first = panel * table_.nr, bytes = ld_ * (elem_ == simd::Elem::kF32 ? 4 : 2);
  const int count = static_cast<int>(std::min<int64_t>(table_.nr, n_ - first));
  for (int i = 0; i < count; ++i) rows[i] = w_ + (first + i) * bytes;
  (bf16_ ? table_.pack_b_bf16 : table_.pack_b)[static_cast<int>(elem_)](rows, count, k0, kn, out);
}

void QuantPanels::pack(int64_t panel, int64_t k0, int64_t kn, float* out) const {
  const int64_t per_panel = table_.nr / simd::kRowBlock, block = panel * per_panel;
  const int blocks = static_cast<int>(std::min(per_panel, row_blocks_ - block));
  (bf16_ ? table_.pack_quant_bf16 : table_.pack_quant)(w_, block, blocks, k0, kn, out);
}

void gemv_dense(const simd::Table& t, simd::Elem elem, const void* w, int64_t ldw, int64_t n, int64_t k,
                const float* x, int64_t ldx, int64_t tokens, float* y, int64_t ldy) {
  // Long runs of rows for the sake of prefetching, as long as there are enough for all threads.
  const int64_t most = (256 << 10) / std::max<int64_t>(1, 2 * k), fair = n / (4 * threads());
  const int64_t rows = std::max<int64_t>(8, round_up(std::min(most, fair), 8));
  parallel_for(ceil_div(n, rows), [&](int64_t i) {
    const int64_t r0 = i * rows, r1 = std::min(n, r0 + rows);
    for (int64_t t0 = 0; t0 < tokens; t0 += simd::kMaxGemvTokens) {
      const int64_t tn = std::min<int64_t>(simd::kMaxGemvTokens, tokens - t0);
      t.gemv[static_cast<int>(elem)][tn](w, ldw, r0, r1, k, x + t0 * ldx, ldx, y + t0 * ldy, ldy);
    }
  });
}

void gemm_nt(const float* x, int64_t ldx, const float* w, int64_t ldw, float* y, int64_t ldy, int64_t m,
             int64_t n, int64_t k) {
  const simd::Table& t = simd::table();
  if (m <= simd::kMaxGemvTokens) return gemv_dense(t, simd::Elem::kF32, w, ldw, n, k, x, ldx, m, y, ldy);
  gemm(t, false, DensePanels(t, false, simd::Elem::kF32, w, ldw, n), x, ldx, m, n, k, y, ldy);
}

}  // namespace awq
