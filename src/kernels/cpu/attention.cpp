// Causal attention over dense or paged keys and values. A task is (span, key/value head, block of queries):
// the query heads that share a key/value head are rows of one matrix, so every key block is packed once for
// all of them. Blocks of 128 keys are visited in order with an online softmax (Milakov and Gimelshein 2018;
// Dao et al. 2022); tiles wholly above the diagonal or outside the window are skipped.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "base/thread_pool.h"
#include "kernels/cpu/int8_table.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/simd_table.h"
#include "kernels/ops.h"

namespace awq {
namespace {

constexpr int64_t kRowsPerTask = 252;  // (token, head) rows: a multiple of every microtile's height
// Keys are taken in chunks of so many, from position 0: each chunk has a softmax of its own, and the chunks
// of a row are merged in order. Spans of at most kSplitRows rows (decoding) make a task of each chunk; longer
// ones take them one after the other. The arithmetic is the same, so a token's result does not depend on how
// many came with it.
constexpr int64_t kSplitRows = 64, kChunkKeys = 256;
static_assert(kChunkKeys % simd::kKeyBlock == 0);

// A block of keys of one head, and their values, where they lie in the cache.
struct CachedBlock {
  static constexpr int64_t kPages = simd::kKeyBlock / kPageTokens + simd::kAheadPages;
  int64_t values_at;
  const void* pages[kPages];
  const float* page_scales[kPages];
  const void* values[simd::kKeyBlock];
  float value_scales[simd::kKeyBlock];

  simd::CachedKeys keys_from(int64_t key) const { return {pages + key / kPageTokens, page_scales + key / kPageTokens, values_at}; }
};

// Where the keys and values of a span lie.
struct KeySource {
  const float* k = nullptr;  // dense [tokens, kv_heads, head_dim]
  const float* v = nullptr;
  int64_t ld = 0;
  const KvLayerView* cache = nullptr;

  int kind() const { return cache->dtype == DType::kI8 ? simd::kCacheInt8 : static_cast<int>(elem_of(cache->dtype)); }
  // Addresses of the rows of one head at positions [begin, begin + n).
  void rows(const SpanView& span, int64_t head, int64_t head_dim, int64_t begin, int64_t n, const void** keys,
            const void** values) const {
    for (int64_t i = 0; i < n; ++i) {
      keys[i] = k + (span.first + begin + i) * ld + head * head_dim;
      values[i] = v + (span.first + begin + i) * ld + head * head_dim;
    }
  }
  // `begin` is the first of a page; pages beyond `end` repeat that of the key before it.
  void block(const SpanView& span, int64_t head, int64_t begin, int64_t n, int64_t end, CachedBlock& out) const {
    const int64_t half = cache->page_bytes() / 2, row = cache->head_bytes() / kPageTokens;
    out.values_at = half;
    for (int64_t p = 0; p < CachedBlock::kPages; ++p) {
      const int64_t first = std::min(begin + p * kPageTokens, (end - 1) / kPageTokens * kPageTokens);
      const std::byte* page = cache->base + span.pages[first / kPageTokens] * cache->page_bytes();
      out.pages[p] = page + head * cache->head_bytes();
      const auto* scales = reinterpret_cast<const float*>(page + cache->scales_at()) + head * kPageTokens;
      out.page_scales[p] = scales;
      for (int64_t i = p * kPageTokens; i < std::min(n, (p + 1) * kPageTokens); ++i) {
        const int64_t slot = i % kPageTokens;
        out.values[i] = page + half + head * cache->head_bytes() + slot * row;
        if (cache->dtype == DType::kI8) out.value_scales[i] = scales[half / 4 + slot];
      }
    }
  }
};

struct Task {
  const SpanView* span;
  int64_t kv_head;
  int64_t query, queries;      // tokens of the span
  int64_t key_begin, key_end;  // positions
  int64_t partial;  // -1: final; else where this part's results go: out [rows, dim], max [rows], sum [rows]
};

// What one chunk, or several merged, say about some rows: unnormalised outputs, the largest score, the sum of
// e^(score - it).
struct Partial {
  float* out;  // [rows, ld]
  int64_t ld;
  float* max;
  float* sum;
};

// Chunks of rows merged in order; a row none of whose keys were seen has the maximum -infinity.
void merge(const simd::Table& t, const Partial& into, const Partial& from, int64_t rows, int64_t dim) {
  for (int64_t row = 0; row < rows; ++row) {
    if (from.max[row] == -std::numeric_limits<float>::infinity()) continue;
    const float top = std::max(into.max[row], from.max[row]);
    const float keep = std::exp(into.max[row] - top), weight = std::exp(from.max[row] - top);
    t.scale(into.out + row * into.ld, keep, dim);
    t.scale(from.out + row * from.ld, weight, dim);
    t.add(into.out + row * into.ld, from.out + row * from.ld, dim);
    into.sum[row] = into.sum[row] * keep + from.sum[row] * weight;
    into.max[row] = top;
  }
}

// A task's memory. rows = queries * heads per key/value head, row r is token r / group, head r % group.
struct Workspace {
  float *query, *scores, *out, *keys, *values, *max, *sum32;
  float *all_out, *all_max, *all_sum;  // of the chunks so far
  std::vector<double> sum;
  CachedBlock block;
  Scratch scratch;

  void prepare(int64_t rows, int64_t dim, int64_t ldo) {
    float* p = scratch.floats(rows * (dim + simd::kKeyBlock + 2 * ldo + 4) + simd::kKeyBlock * (dim + ldo) +
                              16 * 10);
    const auto take = [&p](int64_t n) {
      float* at = p;
      p += round_up(n, 16);
      return at;
    };
    query = take(rows * dim);
    scores = take(rows * simd::kKeyBlock);
    out = take(rows * ldo);
    keys = take(simd::kKeyBlock * dim);
    values = take(simd::kKeyBlock * ldo);
    max = take(rows);
    sum32 = take(rows);
    all_out = take(rows * ldo);
    all_max = take(rows);
    all_sum = take(rows);
    std::fill_n(all_out, rows * ldo, 0.0f);
    std::fill_n(all_max, rows, -std::numeric_limits<float>::infinity());
    std::fill_n(all_sum, rows, 0.0f);
    begin_chunk(rows, ldo);
  }
  void begin_chunk(int64_t rows, int64_t ldo) {
    sum.assign(static_cast<size_t>(rows), 0.0);
    std::fill_n(max, rows, -std::numeric_limits<float>::infinity());
    std::fill_n(out, rows * ldo, 0.0f);
  }
  Partial chunk(int64_t rows, int64_t ldo) {
    for (int64_t row = 0; row < rows; ++row) sum32[row] = static_cast<float>(sum[static_cast<size_t>(row)]);
    return {out, ldo, max, sum32};
  }
};

class Attention {
 public:
  Attention(const AttentionShape& shape, const KeySource& source, const float* q, int64_t ldq, float* y)
      : t_(simd::table()),
        shape_(shape),
        source_(source),
        q_(q),
        ldq_(ldq),
        y_(y),
        group_(shape.heads / shape.kv_heads),
        ldo_(round_up(shape.head_dim, t_.nr)) {
    check_internal(shape.kv_heads > 0 && shape.heads % shape.kv_heads == 0,
                   "attention: heads is not a multiple of kv_heads");
  }

  void run(std::span<const SpanView> spans) {
    thread_local std::vector<Task> tasks;
    thread_local Scratch partials;
    tasks.clear();
    partials_ = partials.floats(plan(spans, tasks));
    parallel_for(static_cast<int64_t>(tasks.size()),
                 [this, list = tasks.data()](int64_t i) { run_task(list[i]); });
    combine(tasks);
  }

 private:
  int64_t plan(std::span<const SpanView> spans, std::vector<Task>& tasks) const;
  void run_task(const Task& task) const;
  void load_queries(const Task& task, Workspace& w, int64_t rows) const;
  void load_keys(const Task& task, int64_t begin, int64_t n, Workspace& w) const;
  void load_cached(const Task& task, int64_t begin, int64_t n, Workspace& w) const;
  void tile_step(const Task& task, int64_t key0, int64_t keys, int64_t row0, int64_t rows,
                 Workspace& w) const;
  void store_partial(const Task& task, const Partial& chunk, int64_t rows) const;
  void combine(const std::vector<Task>& tasks) const;
  // Whether so many rows meet keys and values where they lie.
  bool direct(int64_t rows) const { return source_.cache != nullptr && rows <= t_.direct_rows; }
  static int64_t chunk_end(int64_t key) { return (key / kChunkKeys + 1) * kChunkKeys; }
  float* y_row(const Task& task, int64_t row) const {
    return y_ + ((task.span->first + task.query + row / group_) * shape_.heads + task.kv_head * group_ +
                 row % group_) *
                    shape_.head_dim;
  }

  const simd::Table& t_;
  const AttentionShape& shape_;
  const KeySource& source_;
  const float* q_;
  int64_t ldq_;
  float* y_;
  int64_t group_, ldo_;
  float* partials_ = nullptr;
};

// Returns the floats needed for partial results. The split depends on shapes alone.
int64_t Attention::plan(std::span<const SpanView> spans, std::vector<Task>& tasks) const {
  const int64_t block = std::max<int64_t>(1, kRowsPerTask / group_);
  int64_t floats = 0;
  for (const SpanView& span : spans) {
    // Last queries first: they see the most keys, and long tasks must not start last.
    for (int64_t begin = (span.tokens - 1) / block * block; begin >= 0 && span.tokens > 0; begin -= block) {
      const int64_t queries = std::min(block, span.tokens - begin);
      const int64_t first_key =
          shape_.window > 0 ? std::max<int64_t>(0, span.past + begin - shape_.window + 1) : 0;
      const int64_t key_begin = first_key / simd::kKeyBlock * simd::kKeyBlock,
                    key_end = span.past + begin + queries;
      const bool split =
          span.tokens * group_ <= kSplitRows && key_begin / kChunkKeys < (key_end - 1) / kChunkKeys;
      for (int64_t head = 0; head < shape_.kv_heads; ++head) {
        if (!split) {
          tasks.push_back({&span, head, begin, queries, key_begin, key_end, -1});
          continue;
        }
        for (int64_t key = key_begin; key < key_end; key = chunk_end(key)) {
          tasks.push_back({&span, head, begin, queries, key, std::min(key_end, chunk_end(key)), floats});
          floats += queries * group_ * (shape_.head_dim + 2);
        }
      }
    }
  }
  return floats;
}

void Attention::run_task(const Task& task) const {
  thread_local Workspace w;
  const int64_t rows = task.queries * group_;
  w.prepare(rows, shape_.head_dim, ldo_);
  if (!direct(rows) && ldo_ != shape_.head_dim) std::fill_n(w.values, simd::kKeyBlock * ldo_, 0.0f);
  load_queries(task, w, rows);
  const Partial all{w.all_out, ldo_, w.all_max, w.all_sum};
  for (int64_t key = task.key_begin; key < task.key_end; key += simd::kKeyBlock) {
    const int64_t keys = std::min<int64_t>(simd::kKeyBlock, task.key_end - key);
    load_keys(task, key, keys, w);
    for (int64_t row = 0; row < rows; row += t_.mr)
      tile_step(task, key, keys, row, std::min<int64_t>(t_.mr, rows - row), w);
    if (task.partial < 0 && (key + keys == task.key_end || key + keys == chunk_end(key))) {
      merge(t_, all, w.chunk(rows, ldo_), rows, shape_.head_dim);
      w.begin_chunk(rows, ldo_);
    }
  }
  if (task.partial >= 0) return store_partial(task, w.chunk(rows, ldo_), rows);
  for (int64_t row = 0; row < rows; ++row)
    t_.scaled_copy(w.all_out + row * ldo_, 1.0f / w.all_sum[row], shape_.head_dim, y_row(task, row));
}

// Scaled queries as packed tiles [head_dim][rows of the tile].
void Attention::load_queries(const Task& task, Workspace& w, int64_t rows) const {
  const int64_t dim = shape_.head_dim;
  for (int64_t row = 0; row < rows; row += t_.mr) {
    const int n = static_cast<int>(std::min<int64_t>(t_.mr, rows - row));
    for (int64_t i = 0; i < n; ++i) {
      const int64_t token = task.span->first + task.query + (row + i) / group_;
      const int64_t head = task.kv_head * group_ + (row + i) % group_;
      t_.scaled_copy(q_ + token * ldq_ + head * dim, shape_.scale, dim, w.out + i * dim);
    }
    t_.pack_a(w.out, dim, n, dim, w.query + row * dim);
  }
  std::fill_n(w.out, std::min<int64_t>(t_.mr, rows) * dim, 0.0f);
}

// Keys as panels [panel][head_dim][nr keys], values as panels [panel][key][nr of head_dim]; a cache's stay where they are
// for a few rows.
void Attention::load_keys(const Task& task, int64_t begin, int64_t n, Workspace& w) const {
  const int64_t dim = shape_.head_dim, nr = t_.nr;
  if (source_.cache) return load_cached(task, begin, n, w);
  const void* keys[simd::kKeyBlock];
  const void* values[simd::kKeyBlock];
  source_.rows(*task.span, task.kv_head, dim, begin, n, keys, values);
  constexpr int kF32 = static_cast<int>(simd::Elem::kF32);
  for (int64_t i = 0; i < n; i += nr)
    t_.pack_b[kF32](keys + i, static_cast<int>(std::min(nr, n - i)), 0, dim, w.keys + i * dim);
  for (int64_t c = 0; c < dim; c += nr)
    for (int64_t i = 0; i < n; ++i)
      t_.to_f32[kF32](static_cast<const float*>(values[i]) + c, w.values + c * simd::kKeyBlock + i * nr, std::min(nr, dim - c));
}

void Attention::load_cached(const Task& task, int64_t begin, int64_t n, Workspace& w) const {
  const int64_t dim = shape_.head_dim, nr = t_.nr, rows = task.queries * group_;
  source_.block(*task.span, task.kv_head, begin, n, task.key_end, w.block);
  if (direct(rows)) return;
  const int kind = source_.kind();
  for (int64_t i = 0; i < n; i += nr) t_.key_panel[kind](w.block.keys_from(i), dim, w.keys + i * dim);
  const int64_t element = dtype_size(source_.cache->dtype);
  for (int64_t c = 0; c < dim; c += nr)
    for (int64_t i = 0; i < n; ++i) {
      const auto* from = static_cast<const std::byte*>(w.block.values[i]) + c * element;
      float* to = w.values + c * simd::kKeyBlock + i * nr;
      if (kind == simd::kCacheInt8)
        t_.from_i8(reinterpret_cast<const int8_t*>(from), w.block.value_scales[i], to, std::min(nr, dim - c));
      else
        t_.to_f32[kind](from, to, std::min(nr, dim - c));
    }
}

// Rows [row0, row0 + rows) against keys [key0, key0 + keys).
void Attention::tile_step(const Task& task, int64_t key0, int64_t keys, int64_t row0, int64_t rows,
                          Workspace& w) const {
  const int64_t dim = shape_.head_dim, nr = t_.nr, offset = task.span->past + task.query - key0;
  // Keys of the block a row sees: [first(row), last(row)).
  const auto last = [&](int64_t row) { return std::clamp<int64_t>(offset + row / group_ + 1, 0, keys); };
  const auto first = [&](int64_t row) {
    return shape_.window > 0 ? std::clamp<int64_t>(offset + row / group_ + 1 - shape_.window, 0, keys) : 0;
  };
  const int64_t begin = first(row0), end = last(row0 + rows - 1);
  if (begin >= end) return;
  float* scores = w.scores + row0 * simd::kKeyBlock;
  float* out = w.out + row0 * ldo_;
  const int64_t from = begin / nr * nr;
  if (direct(task.queries * group_))
    t_.key_scores[source_.kind()](static_cast<int>(rows), w.block.keys_from(from), static_cast<int>(ceil_div(end - from, nr)), dim,
                                  w.query, scores + from);
  else
    for (int64_t c = from; c < end; c += nr)
      t_.micro[rows](dim, w.query + row0 * dim, w.keys + c * dim, scores + c, simd::kKeyBlock, false);
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t row = row0 + i, hi = std::clamp(last(row), begin, end),
                  lo = std::min(std::max(first(row), begin), hi);
    if (shape_.softcap > 0) t_.softcap(scores + i * simd::kKeyBlock + lo, shape_.softcap, hi - lo);
    const float shrink =
        t_.softmax_step(scores + i * simd::kKeyBlock, lo, hi, begin, end, w.max + row, &w.sum[row]);
    if (shrink != 1.0f) t_.scale(out + i * ldo_, shrink, ldo_);
  }
  if (direct(task.queries * group_))
    return t_.mix_values[source_.kind()](static_cast<int>(rows), end - begin, scores + begin,
                                         {w.block.values + begin, w.block.value_scales + begin}, dim, out, ldo_);
  for (int64_t c = 0; c < ldo_; c += nr)
    t_.micro_rows[rows](end - begin, scores + begin, w.values + c * simd::kKeyBlock + begin * nr, out + c,
                        ldo_, true);
}

void Attention::store_partial(const Task& task, const Partial& chunk, int64_t rows) const {
  const int64_t dim = shape_.head_dim;
  float* out = partials_ + task.partial;
  for (int64_t row = 0; row < rows; ++row) std::copy_n(chunk.out + row * chunk.ld, dim, out + row * dim);
  std::copy_n(chunk.max, rows, out + rows * dim);
  std::copy_n(chunk.sum, rows, out + rows * (dim + 1));
}

// The parts of one (span, kv head) follow each other in the list.
void Attention::combine(const std::vector<Task>& tasks) const {
  const int64_t dim = shape_.head_dim;
  for (size_t i = 0; i < tasks.size();) {
    size_t end = i + 1;
    if (tasks[i].partial < 0) {
      ++i;
      continue;
    }
    while (end < tasks.size() && tasks[end].partial >= 0 && tasks[end].span == tasks[i].span &&
           tasks[end].kv_head == tasks[i].kv_head)
      ++end;
    const int64_t rows = tasks[i].queries * group_;
    const auto part = [&](size_t p) {
      float* out = partials_ + tasks[p].partial;
      return Partial{out, dim, out + rows * dim, out + rows * (dim + 1)};
    };
    // A task that takes all chunks merges this one into zeros, which leaves it as it is.
    const Partial first = part(i);
    for (size_t p = i + 1; p < end; ++p) merge(t_, first, part(p), rows, dim);
    for (int64_t row = 0; row < rows; ++row)
      t_.scaled_copy(first.out + row * dim, 1.0f / first.sum[row], dim, y_row(tasks[i], row));
    i = end;
  }
}

}  // namespace

void attention_dense(const AttentionShape& shape, std::span<const SpanView> spans, const float* q,
                     int64_t ldq, const float* k, const float* v, int64_t ldkv, float* y) {
  for (const SpanView& span : spans)
    check_internal(span.past == 0, "attention_dense: a span has past tokens");
  KeySource source;
  source.k = k;
  source.v = v;
  source.ld = ldkv;
  Attention(shape, source, q, ldq, y).run(spans);
}

void attention_paged(const AttentionShape& shape, const KvLayerView& cache, std::span<const SpanView> spans,
                     const float* q, int64_t ldq, float* y) {
  KeySource source;
  source.cache = &cache;
  Attention(shape, source, q, ldq, y).run(spans);
}

namespace {

// A key's elements go to the same slot of as many vectors.
template <class T>
void scatter(const std::byte* from, int64_t n, std::byte* to) {
  const auto* x = reinterpret_cast<const T*>(from);
  auto* y = reinterpret_cast<T*>(to);
  for (int64_t i = 0; i < n; ++i) y[i * kPageTokens] = x[i];
}

// Keys and values of a token, one head after the other.
class CacheWriter {
 public:
  explicit CacheWriter(const KvLayerView& cache)
      : cache_(cache),
        element_(dtype_size(cache.dtype)),
        convert_(simd::table().from_f32[cache.dtype == DType::kI8 ? 0 : static_cast<int>(elem_of(cache.dtype))]) {}

  void write(const float* k, const float* v, std::byte* page, int64_t slot) const {
    thread_local Scratch scratch;
    auto* row = reinterpret_cast<std::byte*>(scratch.floats(cache_.head_dim));
    for (int64_t h = 0; h < cache_.kv_heads; ++h, k += cache_.head_dim, v += cache_.head_dim) {
      std::byte* key = page + h * cache_.head_bytes() + slot * element_;
      std::byte* scale = page + cache_.scales_at() + 4 * (h * kPageTokens + slot);
      store(k, row, scale);
      element_ == 4 ? scatter<uint32_t>(row, cache_.head_dim, key)
      : element_ == 2 ? scatter<uint16_t>(row, cache_.head_dim, key)
                      : scatter<uint8_t>(row, cache_.head_dim, key);
      const int64_t half = cache_.page_bytes() / 2;
      store(v, page + half + h * cache_.head_bytes() + slot * cache_.head_dim * element_, scale + half);
    }
  }

 private:
  void store(const float* x, std::byte* to, std::byte* scale_at) const {
    if (cache_.dtype != DType::kI8) return convert_(x, to, cache_.head_dim);
    float scale;
    int32_t sum;
    simd::int8_table().quantize(x, cache_.head_dim, cache_.head_dim, 1, reinterpret_cast<int8_t*>(to), &scale, &sum);
    std::memcpy(scale_at, &scale, sizeof scale);
  }

  const KvLayerView& cache_;
  int64_t element_;
  void (*convert_)(const float*, void*, int64_t);
};

}  // namespace

void kv_write(const KvLayerView& cache, std::span<const SpanView> spans, const float* k, const float* v,
              int64_t ld) {
  const CacheWriter writer(cache);
  for (const SpanView& span : spans) {
    // Tokens of a page belong to one task: they share its cache lines.
    const int64_t skip = span.past % kPageTokens;
    parallel_chunks(ceil_div(skip + span.tokens, kPageTokens), 2 * kPageTokens * cache.kv_heads * cache.head_dim,
                    [&](int64_t begin, int64_t end) {
                      for (int64_t i = std::max<int64_t>(0, begin * kPageTokens - skip);
                           i < std::min(span.tokens, end * kPageTokens - skip); ++i) {
                        const int64_t position = span.past + i, from = (span.first + i) * ld;
                        writer.write(k + from, v + from, cache.base + span.pages[position / kPageTokens] * cache.page_bytes(),
                                     position % kPageTokens);
                      }
                    });
  }
}

}  // namespace awq
