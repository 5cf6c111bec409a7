// Error compensation for kLanes rows at a time; included once per instruction set, inside its own namespace.
// Rows lie across lanes, each its own sequence of codes.

#include "kernels/quant_lanes.h"

struct Tile {
  const CompensateTile& in;
  const Lanes* w;      // [cols] in the original order
  const Lanes* scale;  // [groups]
  const Lanes* zero;   // [groups]
  Lanes* codes;        // [cols], q as float
  Lanes* work;         // [cols]

  Vec round_code(Vec x, int g, int v) const {
    const Vec top = splat(static_cast<float>(in.max_code));
    return vround(vmin(vmax(x / scale[g].v[v] + zero[g].v[v], splat(0)), top));
  }

  // GPTQ (Frantar et al. 2023) with static groups: columns in the given order, each one's error spread over
  // those still to come by the rows of U, the upper Cholesky factor of the inverse of the damped Gram matrix
  // in that order.
  void gptq() {
    const int64_t k = in.cols;
    for (int64_t i = 0; i < k; ++i) work[i] = w[in.order[i]];
    for (int64_t i = 0; i < k; ++i) {
      const float* u = in.factor + i * k;
      const int g = static_cast<int>(in.order[i] / in.group);
      Lanes error;
      for (int v = 0; v < kVecs; ++v) {
        const Vec q = round_code(work[i].v[v], g, v);
        codes[in.order[i]].v[v] = q;
        error.v[v] = (work[i].v[v] - (q - zero[g].v[v]) * scale[g].v[v]) / u[i];
      }
      for (int64_t j = i + 1; j < k; ++j)
        for (int v = 0; v < kVecs; ++v) work[j].v[v] -= u[j] * error.v[v];
    }
  }

  // work = G e with e = w - Q.
  void residual() {
    const int64_t k = in.cols;
    for (int64_t i = 0; i < k; ++i) work[i] = Lanes{};
    for (int64_t j = 0; j < k; ++j) {
      const float* row = in.gram + j * k;
      const int g = static_cast<int>(j / in.group);
      Lanes e;
      for (int v = 0; v < kVecs; ++v) e.v[v] = w[j].v[v] - (codes[j].v[v] - zero[g].v[v]) * scale[g].v[v];
      for (int64_t i = 0; i < k; ++i)
        for (int v = 0; v < kVecs; ++v) work[i].v[v] += row[i] * e.v[v];
    }
  }

  // e G e of the current codes, given work = G e.
  Lanes loss() const {
    Lanes total{};
    for (int64_t j = 0; j < in.cols; ++j) {
      const int g = static_cast<int>(j / in.group);
      for (int v = 0; v < kVecs; ++v)
        total.v[v] += (w[j].v[v] - (codes[j].v[v] - zero[g].v[v]) * scale[g].v[v]) * work[j].v[v];
    }
    return total;
  }

  // One pass of coordinate descent over the codes: with all others fixed the best change of code j is the
  // rounded (G e)_j / (s G_jj).
  void sweep() {
    const int64_t k = in.cols;
    const Vec top = splat(static_cast<float>(in.max_code));
    for (int64_t i = 0; i < k; ++i) {
      const int64_t j = in.order[i];
      const float* row = in.gram + j * k;
      if (!(row[j] > 0)) continue;
      const int g = static_cast<int>(j / in.group);
      Lanes step;
      bool any = false;
      for (int v = 0; v < kVecs; ++v) {
        const Vec wanted = codes[j].v[v] +
                           vround(vmin(vmax(work[j].v[v] / (scale[g].v[v] * row[j]), splat(-16)), splat(16)));
        const Vec code = vmin(vmax(wanted, splat(0)), top);
        const Vec change = code - codes[j].v[v];
        codes[j].v[v] = code;
        step.v[v] = change * scale[g].v[v];
        const Mask moved = change != splat(0);
        for (int lane = 0; lane < kWidth; ++lane) any |= moved[lane] != 0;
      }
      if (!any) continue;
      for (int64_t c = 0; c < k; ++c)
        for (int v = 0; v < kVecs; ++v) work[c].v[v] -= row[c] * step.v[v];
    }
  }
};

void compensate_tile(const CompensateTile& in, float* w, float* scale, float* zero, float* codes, float* work,
                     float* start_loss, float* end_loss) {
  Tile t{in,
         reinterpret_cast<const Lanes*>(w),
         reinterpret_cast<const Lanes*>(scale),
         reinterpret_cast<const Lanes*>(zero),
         reinterpret_cast<Lanes*>(codes),
         reinterpret_cast<Lanes*>(work)};
  t.residual();
  const Lanes before = t.loss();
  if (in.factor != nullptr) t.gptq();
  t.residual();
  for (int s = 0; s < in.sweeps; ++s) t.sweep();
  if (in.sweeps > 0) t.residual();  // afresh: the updates above have gathered rounding
  const Lanes after = t.loss();
  __builtin_memcpy(start_loss, &before, sizeof before);
  __builtin_memcpy(end_loss, &after, sizeof after);
}

void normal_tile(const CompensateTile& in, float* w, float* zero, float* codes, float* work, float* normal) {
  const int64_t k = in.cols, groups = k / in.group;
  const auto *lw = reinterpret_cast<const Lanes*>(w), *lz = reinterpret_cast<const Lanes*>(zero),
             *lc = reinterpret_cast<const Lanes*>(codes);
  auto *image = reinterpret_cast<Lanes*>(work), *out = reinterpret_cast<Lanes*>(normal);
  for (int64_t g = 0; g < groups; ++g) {
    for (int64_t i = 0; i < k; ++i) image[i] = Lanes{};  // G c_g
    for (int64_t j = g * in.group; j < (g + 1) * in.group; ++j) {
      const float* row = in.gram + j * k;
      Lanes c;
      for (int v = 0; v < kVecs; ++v) c.v[v] = lc[j].v[v] - lz[g].v[v];
      for (int64_t i = 0; i < k; ++i)
        for (int v = 0; v < kVecs; ++v) image[i].v[v] += row[i] * c.v[v];
    }
    Lanes* equation = out + g * (groups + 1);
    for (int64_t h = 0; h <= g; ++h) {
      Lanes sum{};
      for (int64_t j = h * in.group; j < (h + 1) * in.group; ++j)
        for (int v = 0; v < kVecs; ++v) sum.v[v] += (lc[j].v[v] - lz[h].v[v]) * image[j].v[v];
      equation[h] = sum;
    }
    Lanes sum{};
    for (int64_t i = 0; i < k; ++i)
      for (int v = 0; v < kVecs; ++v) sum.v[v] += lw[i].v[v] * image[i].v[v];
    equation[groups] = sum;
  }
}
