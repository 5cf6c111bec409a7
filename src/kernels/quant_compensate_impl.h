// Error compensation for kLanes rows at a time; included once per instruction set, inside its own namespace.
// Rows lie across lanes, each its own sequence of codes. What a block of columns does to all others is
// applied at once, as a product whose sums stay in registers.

#include "kernels/quant_lanes.h"

constexpr int64_t kBlock = 64;  // columns
#ifdef __AVX512F__
constexpr int kOutputs = 8;  // rows of a product together: 16 of 32 registers
#else
constexpr int kOutputs = 2;
#endif

// sum[r] = the sum over n < count of m[r * ld + index[n]] x[n]; index null: of m[r * ld + n].
template <int R>
inline void row_products(const float* m, int64_t ld, const int32_t* index, int64_t count, const Lanes* x,
                         Lanes* sum) {
  Vec total[R][kVecs] = {};
  for (int64_t n = 0; n < count; ++n) {
    const int64_t at = index != nullptr ? index[n] : n;
    Vec value[kVecs];
    for (int v = 0; v < kVecs; ++v) value[v] = x[n].v[v];
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < kVecs; ++v) total[r][v] += m[r * ld + at] * value[v];
  }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < kVecs; ++v) sum[r].v[v] = total[r][v];
}

// visit(row, sum) for the rows [begin, end) of m.
template <class Visit>
inline void each_row_product(const float* m, int64_t ld, int64_t begin, int64_t end, const int32_t* index,
                             int64_t count, const Lanes* x, const Visit& visit) {
  Lanes sum[kOutputs];
  int64_t i = begin;
  for (; i + kOutputs <= end; i += kOutputs) {
    row_products<kOutputs>(m + i * ld, ld, index, count, x, sum);
    for (int r = 0; r < kOutputs; ++r) visit(i + r, sum[r]);
  }
  for (; i < end; ++i) {
    row_products<1>(m + i * ld, ld, index, count, x, sum);
    visit(i, sum[0]);
  }
}

struct Tile {
  const CompensateTile& in;
  const Lanes *w, *scale, *zero;
  Lanes *codes, *work, *error;

  Tile(const CompensateTile& tile, const TileBuffers& b)
      : in(tile),
        w(reinterpret_cast<const Lanes*>(b.w)),
        scale(reinterpret_cast<const Lanes*>(b.scale)),
        zero(reinterpret_cast<const Lanes*>(b.zero)),
        codes(reinterpret_cast<Lanes*>(b.codes)),
        work(reinterpret_cast<Lanes*>(b.work)),
        error(reinterpret_cast<Lanes*>(b.error)) {}

  // work[i] -= Σ_n m[i][index[n]] x[n] for the rows i in [begin, end).
  void subtract_from_work(const float* m, int64_t begin, int64_t end, const int32_t* index, int64_t count,
                          const Lanes* x) {
    each_row_product(m, in.cols, begin, end, index, count, x, [&](int64_t i, const Lanes& sum) {
      for (int v = 0; v < kVecs; ++v) work[i].v[v] -= sum.v[v];
    });
  }

  Vec round_code(Vec x, int g, int v) const {
    const Vec top = splat(static_cast<float>(in.max_code));
    return vround(vmin(vmax(x / scale[g].v[v] + zero[g].v[v], splat(0)), top));
  }

  // GPTQ (Frantar et al. 2023) with static groups: each column's error is spread over those still to come by
  // the rows of U, the upper Cholesky factor of the inverse of the damped Gram matrix; in.factor holds its
  // columns.
  void gptq() {
    const int64_t k = in.cols;
    for (int64_t i = 0; i < k; ++i) work[i] = w[i];
    for (int64_t begin = 0; begin < k; begin += kBlock) {
      const int64_t end = begin + kBlock < k ? begin + kBlock : k;
      for (int64_t i = begin; i < end; ++i) {
        const int g = in.group[i];
        const float pivot = in.factor[i * k + i];
        for (int v = 0; v < kVecs; ++v) {
          const Vec q = round_code(work[i].v[v], g, v);
          codes[i].v[v] = q;
          error[i].v[v] = (work[i].v[v] - (q - zero[g].v[v]) * scale[g].v[v]) / pivot;
        }
        for (int64_t j = i + 1; j < end; ++j) {
          const float u = in.factor[j * k + i];
          for (int v = 0; v < kVecs; ++v) work[j].v[v] -= u * error[i].v[v];
        }
      }
      subtract_from_work(in.factor + begin, end, k, nullptr, end - begin, error + begin);
    }
  }

  // work = G e with e = w - Q, which stays in `error`.
  void residual() {
    constexpr int64_t kPart = 256;  // of e, for the first cache level
    const int64_t k = in.cols;
    for (int64_t j = 0; j < k; ++j) {
      const int g = in.group[j];
      for (int v = 0; v < kVecs; ++v)
        error[j].v[v] = w[j].v[v] - (codes[j].v[v] - zero[g].v[v]) * scale[g].v[v];
      work[j] = Lanes{};
    }
    for (int64_t begin = 0; begin < k; begin += kPart)
      each_row_product(in.gram + begin, k, 0, k, nullptr, begin + kPart < k ? kPart : k - begin,
                       error + begin, [&](int64_t i, const Lanes& sum) {
                         for (int v = 0; v < kVecs; ++v) work[i].v[v] += sum.v[v];
                       });
  }

  // e G e of the current codes, after residual().
  Lanes loss() const {
    Lanes total{};
    for (int64_t j = 0; j < in.cols; ++j)
      for (int v = 0; v < kVecs; ++v) total.v[v] += error[j].v[v] * work[j].v[v];
    return total;
  }

  // The best change of code j with all others fixed is the rounded (G e)_j / (s G_jj); step gets the change
  // of the weight.
  bool change_code(int64_t j, float diagonal, Lanes& step) {
    const Vec top = splat(static_cast<float>(in.max_code));
    const int g = in.group[j];
    bool any = false;
    for (int v = 0; v < kVecs; ++v) {
      const Vec wanted = codes[j].v[v] +
                         vround(vmin(vmax(work[j].v[v] / (scale[g].v[v] * diagonal), splat(-16)), splat(16)));
      const Vec code = vmin(vmax(wanted, splat(0)), top);
      const Vec change = code - codes[j].v[v];
      codes[j].v[v] = code;
      step.v[v] = change * scale[g].v[v];
      const Mask moved = change != splat(0);
      for (int lane = 0; lane < kWidth; ++lane) any |= moved[lane] != 0;
    }
    return any;
  }

  // One pass of coordinate descent over the codes. Uses `error` for the changes of a block.
  void sweep() {
    const int64_t k = in.cols;
    for (int64_t begin = 0; begin < k; begin += kBlock) {
      const int64_t end = begin + kBlock < k ? begin + kBlock : k;
      int32_t moved[kBlock];
      int64_t count = 0;
      for (int64_t j = begin; j < end; ++j) {
        const float* row = in.gram + j * k;
        Lanes& step = error[count];
        if (!(row[j] > 0) || !change_code(j, row[j], step)) continue;
        moved[count++] = static_cast<int32_t>(j);
        for (int64_t c = begin; c < end; ++c)
          for (int v = 0; v < kVecs; ++v) work[c].v[v] -= row[c] * step.v[v];
      }
      if (count == 0) continue;
      subtract_from_work(in.gram, 0, begin, moved, count, error);
      subtract_from_work(in.gram, end, k, moved, count, error);
    }
  }
};

void compensate_tile(const CompensateTile& in, const TileBuffers& b, float* start_loss, float* end_loss) {
  Tile t(in, b);
  t.residual();
  const Lanes before = t.loss();
  if (in.factor != nullptr) {
    t.gptq();
    t.residual();
  }
  for (int s = 0; s < in.sweeps; ++s) t.sweep();
  if (in.sweeps > 0) t.residual();  // afresh: the updates above have gathered rounding
  const Lanes after = t.loss();
  __builtin_memcpy(start_loss, &before, sizeof before);
  __builtin_memcpy(end_loss, &after, sizeof after);
}

void normal_tile(const CompensateTile& in, const TileBuffers& b, float* normal) {
  const Tile t(in, b);
  const int64_t k = in.cols, size = in.group_size, groups = k / size;
  auto* out = reinterpret_cast<Lanes*>(normal);
  for (int64_t i = 0; i < groups * (groups + 1); ++i) out[i] = Lanes{};
  const auto code = [&](int64_t j, int v) { return t.codes[j].v[v] - t.zero[in.group[j]].v[v]; };
  for (int64_t n = 0; n < k; ++n)  // group by group
    for (int v = 0; v < kVecs; ++v) t.error[n].v[v] = code(in.member[n], v);
  for (int64_t g = 0; g < groups; ++g) {
    Lanes* equation = out + g * (groups + 1);
    each_row_product(in.gram, k, 0, k, in.member + g * size, size, t.error + g * size,
                     [&](int64_t i, const Lanes& image) {
                       const int h = in.group[i];
                       for (int v = 0; v < kVecs; ++v) {
                         if (h <= g) equation[h].v[v] += code(i, v) * image.v[v];
                         equation[groups].v[v] += t.w[i].v[v] * image.v[v];
                       }
                     });
  }
}
