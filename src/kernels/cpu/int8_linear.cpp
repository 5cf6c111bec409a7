// Prepacking and blocking of the int8 products (int8_table.h has the layout and the exact definition of a
// result).
//
// A few tokens stream the packed codes once (gemv), more go through panels of 32 outputs unpacked to bytes
// (gemm). Both form the same integers and add them in the same order, so a token's result is the same bits in
// any batch.
#include "kernels/cpu/int8_linear.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <mutex>
#include <vector>

#include "base/half.h"
#include "base/system.h"
#include "base/thread_pool.h"
#include "kernels/cpu/linear_kinds.h"
#include "kernels/cpu/scratch.h"

namespace awq {
namespace {

using simd::kInt8Rows;

constexpr int64_t kTokenChunk = 512;  // tokens of one pass over the weights
constexpr int64_t kActivationBytes =
    1 << 20;                             // of a pass: they stay in the second-level cache from panel to panel
constexpr int64_t kPanelColumns = 4096;  // of a pass, at most
constexpr int64_t kUnpackColumns = 512;  // 16 KiB of bytes: unpacked and multiplied in the first-level cache
constexpr int64_t kMinTokensPerTask = 64;  // a panel is unpacked once per so many tokens
constexpr int64_t kTaskBytes = 256 << 10;  // codes of a gemv task, where there are enough for all threads

// Columns that share scales on both sides. Per-row groups are cut, scales repeated; the last block may be
// padded.
int64_t block_of(int64_t cols, int64_t group) {
  const bool whole_rows = group == cols;
  for (int64_t block = std::min<int64_t>(group, simd::kInt8MaxBlock); block >= 8; --block)
    if (group % block == 0 && block % 8 == 0 && (block == group || block % 32 == 0)) return block;
  return whole_rows ? std::min<int64_t>(128, round_up(cols, 32)) : 0;
}

int64_t most_streamed(Product product, const simd::Int8Table& table);

class Int8Linear final : public PackedLinear {
 public:
  Int8Linear(const QuantWeight& w, Product product, const simd::Int8Table& table);
  Int8Linear(const PackedForm& form, Product product, const std::string& where);
  void run(const float* x, int64_t tokens, float* y, int64_t ldy) const override;
  int64_t out() const override { return rows_; }
  int64_t in() const override { return cols_; }
  int64_t bytes() const override { return codes_.nbytes() + meta_.nbytes(); }
  bool row(int64_t n, float* out) const override;
  std::optional<PackedForm> form() const override;
  std::string kernel() const override {
    const char* scales = activations_ == Activations::kFloat ? "" : activations_ == Activations::kInt8Token ? "-token" : "-outliers";
    return fmt::format("w{}a8-{}{}", view_.bits, table_.name, scales);
  }

 private:
  // An input that the integers leave out.
  struct Outlier {
    int64_t token, column;
    float value;
  };
  void store_codes(const QuantWeight& w);
  void store_meta(const QuantWeight& w);
  // Where tokens are quantized to: what Int8Activations is a view of.
  struct Quantized {
    int8_t* q;
    int64_t stride;
    float* scale;
    int32_t* negsum;
  };
  void quantize_rows(const float* x, int64_t begin, int64_t end, const Quantized& to, std::vector<Outlier>* outliers) const;
  float quantize_token(const float* x, int64_t token, int8_t* q, int32_t* negsum, std::vector<Outlier>* outliers) const;
  int code_at(const uint32_t* words, int64_t i) const;
  float scale_at(const unsigned char* meta, int64_t r) const;
  int zero_at(const unsigned char* meta, int64_t r) const {
    return view_.common_zero < 0 ? meta[view_.scale_bytes() + r] : view_.common_zero;
  }
  void column(int64_t b, int64_t k, float* out) const;
  void add_outliers(const std::vector<Outlier>& outliers, float* y, int64_t ldy) const;
  void stream(const simd::Int8Activations& x, int64_t tokens, float* y, int64_t ldy) const;
  void multiply(const simd::Int8Activations& x, int64_t tokens, float* y, int64_t ldy) const;

  int64_t rows_, cols_, row_blocks_;
  int64_t streamed_;  // up to so many tokens
  Activations activations_;
  float threshold_;  // of outliers
  const simd::Int8Table& table_;
  Tensor codes_, meta_;
  simd::Int8Weights view_{};
};

int stored_bits(int bits) { return bits <= 3 ? 3 : bits == 4 ? 4 : 8; }

Int8Linear::Int8Linear(const QuantWeight& w, Product product, const simd::Int8Table& table)
    : rows_(w.rows),
      cols_(w.cols),
      row_blocks_(ceil_div(w.rows, kInt8Rows)),
      streamed_(most_streamed(product, table)),
      activations_(w.scheme.activations),
      threshold_(w.scheme.outlier_threshold),
      table_(table) {
  check_consistent(w);
  check_internal(int8_supports(w), "int8 product: a scheme it does not take");
  view_.block = block_of(w.cols, w.scheme.group_size(w.cols));
  view_.bits = stored_bits(w.scheme.bits);
  if (view_.bits == 3 && view_.block % 32 != 0) view_.bits = 4;
  view_.blocks = ceil_div(w.cols, view_.block);
  view_.words = view_.block * view_.bits / 32;
  store_codes(w);
  store_meta(w);
}

std::optional<PackedForm> Int8Linear::form() const {
  return PackedForm{kInt8Form,
                    {rows_, cols_, view_.bits, view_.block, view_.half_scales, view_.common_zero, static_cast<int64_t>(activations_),
                     static_cast<int64_t>(__builtin_bit_cast(uint32_t, threshold_))},
                    {{"codes", codes_}, {"meta", meta_}}};
}

Int8Linear::Int8Linear(const PackedForm& form, Product product, const std::string& where)
    : streamed_(most_streamed(product, simd::int8_table())), table_(simd::int8_table()) {
  const auto require = [&](bool ok, const char* what) { require_form(ok, where, what); };
  const std::vector<int64_t>& n = form.numbers;
  require(n.size() == 8, "the list of numbers");
  rows_ = n[0];
  cols_ = n[1];
  require(rows_ > 0 && rows_ <= INT32_MAX && cols_ > 0 && cols_ <= INT32_MAX, "the shape");
  view_.bits = static_cast<int>(n[2]);
  view_.block = n[3];
  require(n[2] == 3 || n[2] == 4 || n[2] == 8, "the number of bits");
  require(view_.block >= 8 && view_.block <= simd::kInt8MaxBlock && view_.block % (n[2] == 3 ? 32 : 8) == 0, "the size of blocks");
  view_.half_scales = n[4] != 0;
  require(n[5] >= -1 && n[5] <= 255, "the zero point");
  view_.common_zero = static_cast<int>(n[5]);
  require(n[6] >= 0 && n[6] <= static_cast<int64_t>(Activations::kInt8Outliers), "the kind of activations");
  activations_ = static_cast<Activations>(n[6]);
  threshold_ = __builtin_bit_cast(float, static_cast<uint32_t>(n[7]));
  row_blocks_ = ceil_div(rows_, kInt8Rows);
  view_.blocks = ceil_div(cols_, view_.block);
  view_.words = view_.block * view_.bits / 32;
  const Tensor *codes = form.find("codes"), *meta = form.find("meta");
  require(codes && codes->dtype() == DType::kU32 && codes->shape() == Shape{row_blocks_, view_.blocks, view_.words, kInt8Rows},
          "the shape of codes");
  require(meta && meta->dtype() == DType::kU8 && meta->shape() == Shape{row_blocks_, view_.blocks, view_.meta_bytes()},
          "the shape of scales");
  codes_ = *codes;
  meta_ = *meta;
  view_.codes = codes_.data<uint32_t>();
  view_.meta = meta_.data<uint8_t>();
}

// Four columns, a byte each.
uint32_t four_codes(const uint8_t* q, int64_t left) {
  uint32_t v = 0;
  if (left > 0) std::memcpy(&v, q, static_cast<size_t>(std::min<int64_t>(4, left)));
  return v;
}

void Int8Linear::store_codes(const QuantWeight& w) {
  codes_ = Tensor::zeros(DType::kU32, {row_blocks_, view_.blocks, view_.words, kInt8Rows});
  uint32_t* words = codes_.mutable_data<uint32_t>();
  const auto pack_block = [&](const uint8_t* q, int64_t left, uint32_t* at) {  // at: first word of the row
    if (view_.bits == 8) {
      for (int64_t i = 0; i < view_.words; ++i) at[i * kInt8Rows] = four_codes(q + 4 * i, left - 4 * i);
    } else if (view_.bits == 4) {
      for (int64_t i = 0; i < view_.words; ++i)
        at[i * kInt8Rows] = four_codes(q + 8 * i, left - 8 * i) | four_codes(q + 8 * i + 4, left - 8 * i - 4)
                                                                      << 4;
    } else {
      for (int64_t i = 0; i < view_.block / 4; ++i) {
        const uint32_t v = four_codes(q + 4 * i, left - 4 * i);
        const int64_t unit = i / 8 * 3, s = i % 8;
        at[(unit + s / 4) * kInt8Rows] |= (v & 0x03030303u) << (2 * (s % 4));
        at[(unit + 2) * kInt8Rows] |= (v >> 2 & 0x01010101u) << s;
      }
    }
  };
  // The usual case, whole blocks of 4 or 8 bits, with all rows of a word at a time: what is loaded is waiting for this.
  const auto pack_whole = [&](const uint8_t* q, int64_t rows, uint32_t* at) {
    const int64_t bytes = view_.bits == 4 ? 8 : 4;
    for (int64_t i = 0; i < view_.words; ++i)
      for (int64_t r = 0; r < rows; ++r) {
        uint32_t low, high = 0;
        std::memcpy(&low, q + r * cols_ + bytes * i, 4);
        if (bytes == 8) std::memcpy(&high, q + r * cols_ + 8 * i + 4, 4);
        at[i * kInt8Rows + r] = low | high << 4;
      }
  };
  parallel_for(row_blocks_, [&](int64_t b) {
    const int64_t rows = std::min<int64_t>(kInt8Rows, rows_ - b * kInt8Rows);
    for (int64_t g = 0; g < view_.blocks; ++g) {
      const uint8_t* q = w.codes.data() + b * kInt8Rows * cols_ + g * view_.block;
      const int64_t left = cols_ - g * view_.block;
      uint32_t* at = words + (b * view_.blocks + g) * view_.words * kInt8Rows;
      if (view_.bits != 3 && left >= view_.block)
        pack_whole(q, rows, at);
      else
        for (int64_t r = 0; r < rows; ++r) pack_block(q + r * cols_, left, at + r);
    }
  });
  view_.codes = words;
}

void Int8Linear::store_meta(const QuantWeight& w) {
  const int64_t groups = w.groups(),
                per_group = view_.block >= cols_ ? view_.blocks : w.scheme.group_size(cols_) / view_.block;
  const auto group_of = [&](int64_t g) { return groups == 1 ? 0 : g / per_group; };
  // A symmetric weight's zero is that of its own bits, also where its codes are stored wider.
  view_.common_zero = w.zeros.empty() ? w.zero_at(0, 0) : -1;
  view_.half_scales = w.scale_dtype == DType::kF16;
  meta_ = Tensor::zeros(DType::kU8, {row_blocks_, view_.blocks, view_.meta_bytes()});
  uint8_t* meta = meta_.mutable_data<uint8_t>();
  parallel_for(row_blocks_, [&](int64_t b) {
    for (int64_t r = 0; r < std::min<int64_t>(kInt8Rows, rows_ - b * kInt8Rows); ++r)
      for (int64_t g = 0; g < view_.blocks; ++g) {
        const int64_t row = b * kInt8Rows + r;
        uint8_t* at = meta + (b * view_.blocks + g) * view_.meta_bytes();
        const float scale = w.scales[static_cast<size_t>(row * groups + group_of(g))];
        if (view_.half_scales) {
          const fp16_t half = f32_to_fp16(scale);
          std::memcpy(at + 2 * r, &half, 2);
        } else {
          std::memcpy(at + 4 * r, &scale, 4);
        }
        if (view_.common_zero < 0)
          at[view_.scale_bytes() + r] = static_cast<uint8_t>(w.zero_at(row, group_of(g)));
      }
  });
  view_.meta = meta;
}

// Code of column i of a block, from the row's words.
int Int8Linear::code_at(const uint32_t* words, int64_t i) const {
  const auto bits_at = [&](int64_t word, int64_t shift) { return words[word * kInt8Rows] >> shift; };
  if (view_.bits == 8) return static_cast<int>(bits_at(i / 4, 8 * (i % 4)) & 255);
  if (view_.bits == 4) return static_cast<int>(bits_at(i / 8, 8 * (i % 4) + i % 8 / 4 * 4) & 15);
  const int64_t s = i / 4 % 8, byte = 8 * (i % 4), unit = i / 32 * 3;
  return static_cast<int>((bits_at(unit + s / 4, byte + 2 * (s % 4)) & 3) | (bits_at(unit + 2, byte + s) & 1) << 2);
}

float Int8Linear::scale_at(const unsigned char* meta, int64_t r) const {
  fp16_t half;
  float scale;
  std::memcpy(&half, meta + 2 * r, 2);
  std::memcpy(&scale, meta + (view_.half_scales ? 0 : 4 * r), 4);
  return view_.half_scales ? fp16_to_f32(half) : scale;
}

bool Int8Linear::row(int64_t n, float* out) const {
  const int64_t b = n / kInt8Rows, r = n % kInt8Rows;
  for (int64_t k = 0; k < cols_; ++k) {
    const int64_t g = k / view_.block;
    const uint32_t* words = view_.codes + (b * view_.blocks + g) * view_.words * kInt8Rows + r;
    const unsigned char* meta = view_.meta + (b * view_.blocks + g) * view_.meta_bytes();
    out[k] = static_cast<float>(code_at(words, k % view_.block) - zero_at(meta, r)) * scale_at(meta, r);
  }
  return true;
}

// Quantizes a token with one scale, which is returned; outliers go to the list.
float Int8Linear::quantize_token(const float* x, int64_t token, int8_t* q, int32_t* negsum, std::vector<Outlier>* outliers) const {
  const int64_t blocks = view_.blocks;
  float top = table_.largest(x, cols_);
  const bool finite = top <= std::numeric_limits<float>::max();
  if (finite && outliers && top >= threshold_) {
    thread_local std::vector<float> rest;
    rest.assign(x, x + cols_);
    for (int64_t k = 0; k < cols_; ++k)
      if (std::fabs(x[k]) >= threshold_) {
        outliers->push_back({token, k, x[k]});
        rest[static_cast<size_t>(k)] = 0;
      }
    x = rest.data();
    top = table_.largest(x, cols_);
  }
  const float scale = finite ? top / 127.0f : std::numeric_limits<float>::quiet_NaN();
  table_.quantize_by(x, cols_, view_.block, blocks, finite && top >= 1e-30f ? 1.0f / scale : 0.0f, q, negsum);
  return scale;
}

void Int8Linear::quantize_rows(const float* x, int64_t begin, int64_t end, const Quantized& to, std::vector<Outlier>* outliers) const {
  const int64_t blocks = view_.blocks;
  for (int64_t t = begin; t < end; ++t) {
    const float* row = x + t * cols_;
    int8_t* q = to.q + t * to.stride;
    if (activations_ == Activations::kFloat)
      table_.quantize(row, cols_, view_.block, blocks, q, to.scale + t * blocks, to.negsum + t * blocks);
    else
      std::fill_n(to.scale + t * blocks, blocks, quantize_token(row, t, q, to.negsum + t * blocks, outliers));
  }
}

// Column k of row block b, dequantized.
void Int8Linear::column(int64_t b, int64_t k, float* out) const {
  const int64_t g = k / view_.block, i = k % view_.block;
  const uint32_t* words = view_.codes + (b * view_.blocks + g) * view_.words * kInt8Rows;
  const unsigned char* meta = view_.meta + (b * view_.blocks + g) * view_.meta_bytes();
  for (int64_t r = 0; r < kInt8Rows; ++r)
    out[r] = static_cast<float>(code_at(words + r, i) - zero_at(meta, r)) * scale_at(meta, r);
}

// Every thread takes row blocks; a token's outliers are added in the order of their columns.
void Int8Linear::add_outliers(const std::vector<Outlier>& outliers, float* y, int64_t ldy) const {
  parallel_chunks(row_blocks_, kInt8Rows * static_cast<int64_t>(outliers.size()), [&](int64_t begin, int64_t end) {
    float weights[kInt8Rows];
    for (int64_t b = begin; b < end; ++b) {
      const int64_t rows = std::min<int64_t>(kInt8Rows, rows_ - b * kInt8Rows);
      for (const Outlier& o : outliers) {
        column(b, o.column, weights);
        float* to = y + o.token * ldy + b * kInt8Rows;
        for (int64_t r = 0; r < rows; ++r) to[r] += o.value * weights[r];
      }
    }
  });
}

void Int8Linear::run(const float* x, int64_t tokens, float* y, int64_t ldy) const {
  // A stride that is no multiple of a page keeps the rows of a tile in different sets of the first-level
  // cache.
  const int64_t width = view_.blocks * view_.block, stride = round_up(width, 64) + 64, blocks = view_.blocks;
  thread_local Scratch scratch;
  for (int64_t t0 = 0; t0 < tokens; t0 += kTokenChunk) {
    const int64_t n = std::min(kTokenChunk, tokens - t0), numbers = round_up(n * blocks, 16);
    float* scale = scratch.floats(2 * numbers + n * stride / 4);
    auto* negsum = reinterpret_cast<int32_t*>(scale + numbers);
    auto* q = reinterpret_cast<int8_t*>(scale + 2 * numbers);
    const Quantized to{q, stride, scale, negsum};
    thread_local std::vector<Outlier> outliers;
    outliers.clear();
    if (activations_ == Activations::kInt8Outliers) {
      quantize_rows(x + t0 * cols_, 0, n, to, &outliers);
    } else {
      parallel_chunks(n, cols_, [&](int64_t begin, int64_t end) { quantize_rows(x + t0 * cols_, begin, end, to, nullptr); });
    }
    const simd::Int8Activations activations{q, stride, scale, negsum, blocks};
    n <= streamed_ ? stream(activations, n, y + t0 * ldy, ldy) : multiply(activations, n, y + t0 * ldy, ldy);
    if (!outliers.empty()) add_outliers(outliers, y + t0 * ldy, ldy);
  }
}

simd::Int8Activations from_token(const simd::Int8Activations& x, int64_t t) {
  return {x.q + t * x.stride, x.stride, x.scale + t * x.blocks, x.negsum + t * x.blocks, x.blocks};
}

void Int8Linear::stream(const simd::Int8Activations& x, int64_t tokens, float* y, int64_t ldy) const {
  const int64_t bytes = view_.blocks * view_.words * kInt8Rows * 4;
  const int64_t wanted =
      std::max<int64_t>(threads(), row_blocks_ * bytes / kTaskBytes / threads() * threads());
  const int64_t tasks = std::min(row_blocks_, wanted);
  parallel_for(tasks, [&](int64_t i) {
    const int64_t begin = row_blocks_ * i / tasks, end = row_blocks_ * (i + 1) / tasks;
    for (int64_t t = 0; t < tokens; t += simd::kInt8GemvTokens) {
      const int n = static_cast<int>(std::min<int64_t>(simd::kInt8GemvTokens, tokens - t));
      const int64_t streams = table_.streams(n), each = (end - begin) / streams,
                    rest = begin + each * streams;
      const simd::Int8Activations part = from_token(x, t);
      if (each > 0) table_.gemv[n](view_, begin, each, streams, part, rows_, y + t * ldy, ldy);
      if (rest < end) table_.gemv[n](view_, rest, 1, end - rest, part, rows_, y + t * ldy, ldy);
    }
  });
}

void Int8Linear::multiply(const simd::Int8Activations& x, int64_t tokens, float* y, int64_t ldy) const {
  const int64_t panels = ceil_div(row_blocks_, simd::kInt8PanelBlocks),
                panel_rows = simd::kInt8PanelBlocks * kInt8Rows;
  const int64_t columns = std::clamp<int64_t>(kActivationBytes / tokens, view_.block, kPanelColumns);
  const int64_t step = columns / view_.block;
  // Enough tasks for all threads; the split does not change any sum.
  int64_t parts = 1;
  while (panels * parts < 4 * threads() && tokens / (parts + 1) >= kMinTokensPerTask) ++parts;
  const int64_t each = round_up(ceil_div(tokens, parts), table_.gemm_tokens);
  for (int64_t g0 = 0; g0 < view_.blocks; g0 += step) {
    const int64_t g1 = std::min(view_.blocks, g0 + step);
    parallel_for(panels * parts, [&](int64_t i) {
      thread_local Scratch scratch;
      const int64_t panel = i % panels, t0 = i / panels * each, n = std::min(each, tokens - t0);
      if (n <= 0) return;
      const int64_t b0 = panel * simd::kInt8PanelBlocks;
      const int count = static_cast<int>(std::min<int64_t>(simd::kInt8PanelBlocks, row_blocks_ - b0));
      const int64_t part = std::max<int64_t>(1, kUnpackColumns / view_.block);
      auto* bytes = reinterpret_cast<uint8_t*>(scratch.floats(part * view_.block * panel_rows / 4));
      for (int64_t g = g0; g < g1; g += part) {
        const int64_t end = std::min(g1, g + part);
        table_.unpack(view_, b0, count, g, end, bytes);
        table_.gemm(view_, bytes, b0, count, g, end, from_token(x, t0), n, rows_ - panel * panel_rows,
                    y + t0 * ldy + panel * panel_rows, ldy);
      }
    });
  }
}

// Seconds that `linear` takes for x [tokens, in], the least of four.
double least_seconds(const Int8Linear& linear, const std::vector<float>& x, int64_t tokens) {
  std::vector<float> y(static_cast<size_t>(tokens * linear.out()));
  double least = std::numeric_limits<double>::infinity();
  for (int i = 0; i < 4; ++i) {
    const double start = now_seconds();
    linear.run(x.data(), tokens, y.data(), linear.out());
    least = std::min(least, now_seconds() - start);
  }
  return least;
}

// Whether streaming is the faster for many tokens too, on a matrix of some MOPs: a few milliseconds.
bool always_streams(const simd::Int8Table& table) {
  constexpr int64_t kRows = 512, kCols = 2048, kTokens = 64;
  QuantWeight w;
  w.rows = kRows, w.cols = kCols;
  for (int64_t i = 0; i < kRows * kCols; ++i) w.codes.push_back(static_cast<uint8_t>(i * 7 % 16));
  w.scales.assign(static_cast<size_t>(kRows * w.groups()), 0.0625f);
  w.zeros.assign(w.scales.size(), 8);
  const std::vector<float> x(static_cast<size_t>(kTokens * kCols), 1.0f);
  return least_seconds({w, Product::kGemv, table}, x, kTokens) < least_seconds({w, Product::kGemm, table}, x, kTokens);
}

// Both ways give the same bits; which is faster for many tokens is the machine's affair, so it is measured, once for a table.
int64_t most_streamed(Product product, const simd::Int8Table& table) {
  if (product == Product::kGemv) return INT64_MAX;
  if (product == Product::kGemm) return 0;
  static std::mutex mutex;
  static std::map<const simd::Int8Table*, int64_t> known;
  const std::lock_guard lock(mutex);
  const auto [at, fresh] = known.try_emplace(&table, table.stream_tokens);
  if (fresh && always_streams(table)) at->second = INT64_MAX;
  return at->second;
}

}  // namespace

bool int8_supports(const QuantWeight& w) {
  return w.scheme.code == CodeKind::kAffine && w.scheme.zero != ZeroKind::kReal &&
         block_of(w.cols, w.scheme.group_size(w.cols)) > 0;
}

std::unique_ptr<PackedLinear> pack_int8(const QuantWeight& w, Product product, const simd::Int8Table& table) {
  return std::make_unique<Int8Linear>(w, product, table);
}

std::unique_ptr<PackedLinear> int8_of(const PackedForm& form, Product product, const std::string& where) {
  return std::make_unique<Int8Linear>(form, product, where);
}

}  // namespace awq
