// Range search for one group of kLanes rows at a time; included once per instruction set, inside its own namespace.
//
// Rows lie across the lanes of a vector, columns of the group one below the other:
//
//   w    [g][lanes]   weights, transposed             B [g][g]  the group's block of the Gram matrix, row stride ldb
//   err  [g][lanes]   w - (q - z) s                   loss[lane] = Σ_ij err_i B_ij err_j
//
// so every lane searches its own row and B is read as broadcast scalars.

#include "kernels/quant_lanes.h"

struct GroupSearch {
  const RangeGroup& in;
  Lanes* err;    // [group]
  Lanes* codes;  // [group], q - z, for refit_scale
  Lanes lo0, hi0, best_scale, best_zero, best_loss;

  // scratch: 2 * group * kLanes floats, 64-byte aligned.
  GroupSearch(const RangeGroup& group, float* scratch)
      : in(group), err(reinterpret_cast<Lanes*>(scratch)), codes(err + group.group) {}

  Vec w(int i, int v) const { return *reinterpret_cast<const Vec*>(in.w + (static_cast<int64_t>(i) * kVecs + v) * kWidth); }

  Vec round_scale(Vec s) const {
    float lane[kWidth];
    __builtin_memcpy(lane, &s, sizeof lane);
    for (float& x : lane) x = round_scale_to(x, in.scale_dtype);
    __builtin_memcpy(&s, lane, sizeof lane);
    return s;
  }

  // Rows i .. i+R-1 of Σ_i err_i (B_ii err_i + 2 Σ_{j<i} B_ij err_j), j within i's tile of kTile columns.
  template <int R>
  void add_rows(int i, Lanes& total) const {
    Vec t[R][kVecs] = {};
    const float* b[R];
    for (int r = 0; r < R; ++r) b[r] = in.block + static_cast<int64_t>(i + r) * in.ldb;
    for (int j = i / kTile * kTile; j < i; ++j)
      for (int v = 0; v < kVecs; ++v) {
        const Vec e = err[j].v[v];
        for (int r = 0; r < R; ++r) t[r][v] += b[r][j] * e;
      }
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < kVecs; ++v) {
        for (int j = i; j < i + r; ++j) t[r][v] += b[r][j] * err[j].v[v];
        const Vec e = err[i + r].v[v];
        total.v[v] += e * (t[r][v] + t[r][v] + b[r][i + r] * e);
      }
  }

  Lanes quadratic() const {
    Lanes total{};
    int i = 0;
    for (; i + 4 <= in.group; i += 4) add_rows<4>(i, total);
    for (; i < in.group; ++i) add_rows<1>(i, total);
    return total;
  }

  // Rounds with the given scale and zero, and keeps them in the lanes where the loss falls.
  void try_pair(const Lanes& scale, const Lanes& zero) {
    const Vec top = splat(static_cast<float>(in.max_code));
    Lanes inverse;
    for (int v = 0; v < kVecs; ++v) inverse.v[v] = 1.0f / scale.v[v];
    for (int i = 0; i < in.group; ++i)
      for (int v = 0; v < kVecs; ++v) {
        const Vec q = vround(vmin(vmax(w(i, v) * inverse.v[v] + zero.v[v], splat(0)), top));
        err[i].v[v] = w(i, v) - (q - zero.v[v]) * scale.v[v];
      }
    const Lanes loss = quadratic();
    for (int v = 0; v < kVecs; ++v) {
      const Mask better = loss.v[v] < best_loss.v[v];
      best_scale.v[v] = better ? scale.v[v] : best_scale.v[v];
      best_zero.v[v] = better ? zero.v[v] : best_zero.v[v];
      best_loss.v[v] = better ? loss.v[v] : best_loss.v[v];
    }
  }

  void pair_of_range(const Lanes& lo, const Lanes& hi, Lanes& scale, Lanes& zero) const {
    const float top = static_cast<float>(in.max_code);
    for (int v = 0; v < kVecs; ++v) {
      if (in.symmetric) {
        scale.v[v] = round_scale(vmax(vmax(-lo.v[v], hi.v[v]), splat(kMinRange)) / (0.5f * top));
        zero.v[v] = splat(static_cast<float>((in.max_code + 1) / 2));
      } else {
        scale.v[v] = round_scale(vmax(hi.v[v] - lo.v[v], splat(kMinRange)) / top);
        zero.v[v] = vround(vmin(vmax(-lo.v[v] / scale.v[v], splat(0)), splat(top)));
      }
    }
  }

  void try_range(const Lanes& lo, const Lanes& hi) {
    Lanes scale, zero;
    pair_of_range(lo, hi, scale, zero);
    try_pair(scale, zero);
  }

  void start() {
    for (int v = 0; v < kVecs; ++v) {
      Vec lo = splat(0), hi = splat(0);
      for (int i = 0; i < in.group; ++i) lo = vmin(lo, w(i, v)), hi = vmax(hi, w(i, v));
      lo0.v[v] = lo;
      hi0.v[v] = hi;
      best_loss.v[v] = splat(3e38f);
    }
    pair_of_range(lo0, hi0, best_scale, best_zero);
    if (in.mode != RangeMode::kMinMax) try_pair(best_scale, best_zero);
  }

  // AutoAWQ: |w| limited to (1 - i/20) of its maximum.
  void clip_steps() {
    for (int i = 1; i < 10; ++i) {
      Lanes lo, hi;
      for (int v = 0; v < kVecs; ++v) {
        const Vec c = vmax(-lo0.v[v], hi0.v[v]) * (1 - static_cast<float>(i) / 20);
        lo.v[v] = vmax(lo0.v[v], -c);
        hi.v[v] = vmin(hi0.v[v], c);
      }
      try_range(lo, hi);
    }
  }

  // Both ends shrunk in proportion: reaches further down than the clip, and keeps the ratio of the ends.
  void proportional_steps() {
    for (int i = 1; i <= 12; ++i) {
      Lanes lo, hi;
      const float f = 1 - static_cast<float>(i) / 20;
      for (int v = 0; v < kVecs; ++v) lo.v[v] = lo0.v[v] * f, hi.v[v] = hi0.v[v] * f;
      try_range(lo, hi);
    }
  }

  // Moves of one end at a time around the best so far, in ever smaller steps of the full range.
  void free_steps() {
    for (const float step : {0.08f, 0.04f, 0.02f, 0.01f})
      for (const int side : {0, 1})
        for (const float sign : {-1.0f, 1.0f}) {
          Lanes lo, hi;
          for (int v = 0; v < kVecs; ++v) {
            const Vec delta = (hi0.v[v] - lo0.v[v]) * (sign * step);
            const Vec low = -best_zero.v[v] * best_scale.v[v];
            const Vec high = low + best_scale.v[v] * static_cast<float>(in.max_code);
            lo.v[v] = vmin(side == 0 ? low + delta : low, splat(0));
            hi.v[v] = vmax(side == 1 ? high + delta : high, splat(0));
          }
          try_range(lo, hi);
        }
    for (const float shift : {-1.0f, 1.0f}) {
      if (in.symmetric) break;
      Lanes zero;
      for (int v = 0; v < kVecs; ++v)
        zero.v[v] = vmin(vmax(best_zero.v[v] + shift, splat(0)), splat(static_cast<float>(in.max_code)));
      try_pair(best_scale, zero);
    }
  }

  // With codes fixed, c = q - z, the loss is quadratic in the scale: s = (w B c) / (c B c).
  void refit_scale() {
    Lanes wbc{}, cbc{};
    const Vec top = splat(static_cast<float>(in.max_code));
    for (int i = 0; i < in.group; ++i)
      for (int v = 0; v < kVecs; ++v)
        codes[i].v[v] = vround(vmin(vmax(w(i, v) / best_scale.v[v] + best_zero.v[v], splat(0)), top)) - best_zero.v[v];
    for (int i = 0; i < in.group; ++i)
      for (int v = 0; v < kVecs; ++v) {
        Vec t = splat(0);
        const float* b = in.block + static_cast<int64_t>(i) * in.ldb;
        const int begin = i / kTile * kTile, end = std::min(begin + kTile, in.group);
        for (int j = begin; j < end; ++j) t += b[j] * codes[j].v[v];
        wbc.v[v] += w(i, v) * t;
        cbc.v[v] += codes[i].v[v] * t;
      }
    Lanes scale;
    for (int v = 0; v < kVecs; ++v) {
      const Vec s = wbc.v[v] / vmax(cbc.v[v], splat(1e-30f));
      const Mask usable = (s > 0.25f * best_scale.v[v]) & (s < 4.0f * best_scale.v[v]);
      scale.v[v] = round_scale(usable ? s : best_scale.v[v]);
    }
    try_pair(scale, best_zero);
  }
};

void search_range(const RangeGroup& group, float* scratch, const RangeResult& out) {
  GroupSearch s(group, scratch);
  s.start();
  if (group.mode != RangeMode::kMinMax) s.clip_steps();
  if (group.mode == RangeMode::kFull) {
    s.proportional_steps();
    s.free_steps();
    s.refit_scale();
    s.refit_scale();
  }
  for (int v = 0; v < kVecs; ++v)
    for (int lane = 0; lane < kWidth; ++lane) {
      out.scale[v * kWidth + lane] = s.best_scale.v[v][lane];
      out.zero[v * kWidth + lane] = static_cast<uint8_t>(s.best_zero.v[v][lane]);
    }
  const Vec top = splat(static_cast<float>(group.max_code));
  for (int i = 0; i < group.group; ++i)
    for (int v = 0; v < kVecs; ++v) {
      const Vec q = vround(vmin(vmax(s.w(i, v) * (1.0f / s.best_scale.v[v]) + s.best_zero.v[v], splat(0)), top));
      for (int lane = 0; lane < kWidth; ++lane)
        out.codes[(static_cast<int64_t>(i) * kVecs + v) * kWidth + lane] = static_cast<uint8_t>(q[lane]);
    }
}

inline Vec load(const float* p) {
  Vec x;
  __builtin_memcpy(&x, p, sizeof x);
  return x;
}

// One row: e = w - Q(w c) / c, with Q rounding to nearest on each group's own range. Groups are multiples of 16.
void minmax_error_row(const RangeGroup& in, int64_t cols, const float* c, const float* inverse_c, float* e) {
  for (int64_t at = 0; at < cols; at += in.group) {
    Vec low = splat(0), high = splat(0);
    for (int i = 0; i < in.group; i += kWidth) {
      const Vec x = load(in.w + at + i) * load(c + at + i);
      low = vmin(low, x);
      high = vmax(high, x);
    }
    float lo = 0, hi = 0;
    for (int lane = 0; lane < kWidth; ++lane) lo = std::min(lo, low[lane]), hi = std::max(hi, high[lane]);
    const float top = static_cast<float>(in.max_code);
    float scale, zero;
    if (in.symmetric) {
      scale = round_scale_to(std::max(std::max(-lo, hi), kMinRange) / (0.5f * top), in.scale_dtype);
      zero = static_cast<float>((in.max_code + 1) / 2);
    } else {
      scale = round_scale_to(std::max(hi - lo, kMinRange) / top, in.scale_dtype);
      zero = vround(splat(std::min(std::max(-lo / scale, 0.0f), top)))[0];
    }
    const float inverse = 1.0f / scale;
    for (int i = 0; i < in.group; i += kWidth) {
      const Vec w = load(in.w + at + i);
      const Vec q = vround(vmin(vmax(w * load(c + at + i) * inverse + zero, splat(0)), splat(top)));
      const Vec error = w - (q - zero) * scale * load(inverse_c + at + i);
      __builtin_memcpy(e + at + i, &error, sizeof error);
    }
  }
}
