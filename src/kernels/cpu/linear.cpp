// Resident forms of linear layers: dense rows as stored, or interleaved 4- and 8-bit codes (simd_table.h).
#include "kernels/linear.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/half.h"
#include "base/thread_pool.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/int8_linear.h"
#include "kernels/cpu/linear_kinds.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/simd_table.h"

namespace awq {
namespace {

// Up to so many tokens the weights are streamed in their stored form, 8 tokens at a time; beyond it they
// become panels. Measured on 1536 x 1536: the streaming kernel for 4 bits multiplies almost as fast as the
// panels' product and saves the dequantized copy; bf16 products are twice as fast, so they pay sooner.
constexpr int64_t kDenseStreamTokens = 16, kQuantStreamTokens = 32, kBf16StreamTokens = 8;

// Only one of the two ways is left where sums must not depend on the number of tokens.
int64_t stream_limit(Product product, bool bf16, int64_t automatic) {
  if (product == Product::kAuto || (product == Product::kInvariant && bf16)) return automatic;
  return product == Product::kGemm ? 0 : INT64_MAX;
}

class DenseLinear final : public PackedLinear {
 public:
  DenseLinear(Tensor w, bool bf16, Product product)
      : w_(std::move(w)),
        table_(simd::table()),
        bf16_(bf16),
        stream_tokens_(stream_limit(product, bf16, bf16 ? kBf16StreamTokens : kDenseStreamTokens)),
        elem_(elem_of(w_.dtype())) {}

  void run(const float* x, int64_t tokens, float* y, int64_t ldy) const override {
    if (tokens > stream_tokens_) {
      const DensePanels panels(table_, bf16_, elem_, w_.bytes(), in(), out());
      return gemm(table_, bf16_, panels, x, in(), tokens, out(), in(), y, ldy);
    }
    if (bf16_) {  // the same rounding of x as in the panels' product, so that decode and prefill agree
      thread_local Scratch scratch;
      float* rounded = scratch.floats(tokens * in());
      table_.round_bf16(x, rounded, tokens * in());
      x = rounded;
    }
    gemv_dense(table_, elem_, w_.bytes(), in(), out(), in(), x, in(), tokens, y, ldy);
  }
  int64_t out() const override { return w_.dim(0); }
  int64_t in() const override { return w_.dim(1); }
  int64_t bytes() const override { return w_.nbytes(); }
  std::string kernel() const override {
    const char* name = elem_ == simd::Elem::kF32 ? "f32" : elem_ == simd::Elem::kF16 ? "f16" : "bf16";
    return fmt::format("dense-{}-{}{}", name, table_.name, bf16_ ? "-bf16" : "");
  }

 private:
  Tensor w_;
  const simd::Table& table_;
  bool bf16_;
  int64_t stream_tokens_;
  simd::Elem elem_;
};

constexpr const char* kCodesForm = "codes/1";

class QuantLinear final : public PackedLinear {
 public:
  QuantLinear(const QuantWeight& w, bool bf16, Product product);
  QuantLinear(const PackedForm& form, bool bf16, Product product, const std::string& where);
  std::optional<PackedForm> form() const override;
  void run(const float* x, int64_t tokens, float* y, int64_t ldy) const override;
  int64_t out() const override { return out_; }
  int64_t in() const override { return view_.k; }
  int64_t bytes() const override {
    return codes_.nbytes() + scales_.nbytes() + zeros_.nbytes() + offsets_.nbytes();
  }
  std::string kernel() const override {
    return fmt::format("{}{}-{}{}", view_.levels ? "nf" : "w", view_.bits, table_.name, bf16_ ? "-bf16" : "");
  }

 private:
  void store_codes(const QuantWeight& w);
  void store_scales(const QuantWeight& w);
  void store_zeros(const QuantWeight& w);
  void store_levels();
  void stream(const float* x, int64_t tokens, float* y, int64_t ldy) const;

  int64_t out_, row_blocks_;
  const simd::Table& table_;
  bool bf16_;
  int64_t stream_tokens_;
  Tensor codes_, scales_, zeros_, offsets_;
  float levels_[kNf4Codes];  // in the order of the stored nibbles
  simd::QuantView view_{};
};

QuantLinear::QuantLinear(const QuantWeight& w, bool bf16, Product product)
    : out_(w.rows),
      row_blocks_(ceil_div(w.rows, simd::kRowBlock)),
      table_(simd::table()),
      bf16_(bf16),
      stream_tokens_(stream_limit(product, bf16, bf16 ? kBf16StreamTokens : kQuantStreamTokens)) {
  check_consistent(w);
  view_.bits = w.scheme.bits <= 4 ? 4 : 8;
  view_.k = w.cols;
  view_.group = w.scheme.group_size(w.cols);
  view_.groups = w.groups();
  view_.words = ceil_div(view_.group, 32 / view_.bits);
  if (view_.groups > 1 && view_.group % 8 != 0)
    fail(Code::kUnsupported, "group size {} of a quantized weight [{}, {}]: expected a multiple of 8",
         view_.group, w.rows, w.cols);
  store_codes(w);
  store_scales(w);
  store_zeros(w);
  if (w.scheme.code == CodeKind::kNf4) store_levels();
}

std::optional<PackedForm> QuantLinear::form() const {
  PackedForm form{kCodesForm, {out_, view_.k, view_.bits, view_.group, view_.levels != nullptr}, {{"codes", codes_}, {"scales", scales_}}};
  if (!zeros_.empty()) form.tensors.emplace_back("zeros", zeros_);
  if (!offsets_.empty()) form.tensors.emplace_back("offsets", offsets_);
  return form;
}

QuantLinear::QuantLinear(const PackedForm& form, bool bf16, Product product, const std::string& where)
    : table_(simd::table()),
      bf16_(bf16),
      stream_tokens_(stream_limit(product, bf16, bf16 ? kBf16StreamTokens : kQuantStreamTokens)) {
  const auto require = [&](bool ok, const char* what) { require_form(ok, where, what); };
  const std::vector<int64_t>& n = form.numbers;
  require(n.size() == 5, "the list of numbers");
  out_ = n[0];
  view_.k = n[1];
  require(out_ > 0 && out_ <= INT32_MAX && view_.k > 0 && view_.k <= INT32_MAX, "the shape");
  require(n[2] == 4 || (n[2] == 8 && n[4] == 0), "the number of bits");
  view_.bits = static_cast<int>(n[2]);
  view_.group = n[3];
  require(view_.group > 0 && view_.k % view_.group == 0 && (view_.group == view_.k || view_.group % 8 == 0), "the group size");
  view_.groups = view_.k / view_.group;
  view_.words = ceil_div(view_.group, 32 / view_.bits);
  row_blocks_ = ceil_div(out_, simd::kRowBlock);
  const Tensor *codes = form.find("codes"), *scales = form.find("scales"), *zeros = form.find("zeros"), *offsets = form.find("offsets");
  const Shape per_group{row_blocks_, view_.groups, simd::kRowBlock};
  require(codes && codes->dtype() == DType::kU32 && codes->shape() == Shape{row_blocks_, view_.groups, view_.words, simd::kRowBlock},
          "the shape of codes");
  require(scales && scales->shape() == per_group &&
              (scales->dtype() == DType::kF16 || scales->dtype() == DType::kBF16 || scales->dtype() == DType::kF32),
          "the shape of scales");
  require(!zeros || (zeros->dtype() == DType::kI8 && zeros->shape() == per_group), "the shape of zeros");
  require(!offsets || (offsets->dtype() == DType::kF32 && offsets->shape() == per_group), "the shape of offsets");
  codes_ = *codes;
  scales_ = *scales;
  view_.codes = codes_.data<uint32_t>();
  view_.scales = scales_.bytes();
  view_.scale_elem = elem_of(scales_.dtype());
  if (zeros) {
    zeros_ = *zeros;
    view_.zeros = zeros_.data<int8_t>();
  }
  if (offsets) {
    offsets_ = *offsets;
    view_.offsets = offsets_.f32();
  }
  if (n[4] != 0) store_levels();
}

void QuantLinear::store_codes(const QuantWeight& w) {
  const int bits = view_.bits, per_word = 32 / bits;
  const uint8_t middle = static_cast<uint8_t>(1 << (w.scheme.bits - 1));
  const uint32_t mask = (1u << bits) - 1;
  codes_ = Tensor::zeros(DType::kU32, {row_blocks_, view_.groups, view_.words, simd::kRowBlock});
  uint32_t* words = codes_.mutable_data<uint32_t>();
  parallel_for(row_blocks_, [&](int64_t b) {
    const int64_t rows = std::min<int64_t>(simd::kRowBlock, w.rows - b * simd::kRowBlock);
    for (int64_t r = 0; r < rows; ++r) {
      const uint8_t* q = w.codes.data() + (b * simd::kRowBlock + r) * w.cols;
      for (int64_t k = 0; k < w.cols; ++k) {
        const int64_t g = k / view_.group, i = k - g * view_.group;
        uint32_t& word = words[((b * view_.groups + g) * view_.words + i / per_word) * simd::kRowBlock + r];
        word |= (static_cast<uint32_t>(q[k] - middle) & mask) << (bits * (i % per_word));
      }
    }
  });
  view_.codes = words;
}

// Calls put(place, from): where the value of each row and group lies in [row block][group][16], and in
// [row][group].
template <class Put>
void each_group(const QuantWeight& w, const Put& put) {
  const int64_t groups = w.groups();
  for (int64_t row = 0; row < w.rows; ++row)
    for (int64_t g = 0; g < groups; ++g)
      put((row / simd::kRowBlock * groups + g) * simd::kRowBlock + row % simd::kRowBlock, row * groups + g);
}

void QuantLinear::store_scales(const QuantWeight& w) {
  const DType dtype =
      w.scale_dtype == DType::kF16 || w.scale_dtype == DType::kBF16 ? w.scale_dtype : DType::kF32;
  std::vector<float> ordered(static_cast<size_t>(row_blocks_ * view_.groups * simd::kRowBlock), 0.0f);
  each_group(w, [&](int64_t to, int64_t from) { ordered[to] = w.scales[from]; });
  scales_ = Tensor(dtype, {row_blocks_, view_.groups, simd::kRowBlock});
  convert_from_f32(ordered.data(), dtype, scales_.mutable_bytes(), scales_.numel());
  view_.scales = scales_.bytes();
  view_.scale_elem = elem_of(dtype);
}

void QuantLinear::store_zeros(const QuantWeight& w) {
  const int middle = 1 << (w.scheme.bits - 1);  // codes are stored less this
  if (!w.zeros.empty()) {
    zeros_ = Tensor::zeros(DType::kI8, {row_blocks_, view_.groups, simd::kRowBlock});
    int8_t* z = zeros_.mutable_data<int8_t>();
    each_group(w, [&](int64_t to, int64_t from) { z[to] = static_cast<int8_t>(w.zeros[from] - middle); });
    view_.zeros = z;
  }
  if (!w.offsets.empty()) {
    offsets_ = Tensor::zeros(DType::kF32, {row_blocks_, view_.groups, simd::kRowBlock});
    float* o = offsets_.mutable_data<float>();
    each_group(w, [&](int64_t to, int64_t from) {
      o[to] = w.offsets[from] + static_cast<float>(middle) * w.scales[from];
    });
    view_.offsets = o;
  }
}

void QuantLinear::store_levels() {
  for (int nibble = 0; nibble < kNf4Codes; ++nibble) levels_[nibble] = kNf4Values[nibble ^ kNf4Codes / 2];
  view_.levels = levels_;
}

void QuantLinear::run(const float* x, int64_t tokens, float* y, int64_t ldy) const {
  if (tokens <= stream_tokens_) return stream(x, tokens, y, ldy);
  gemm(table_, bf16_, QuantPanels(table_, bf16_, view_, row_blocks_), x, in(), tokens, out_, in(), y, ldy);
}

void QuantLinear::stream(const float* x, int64_t tokens, float* y, int64_t ldy) const {
  thread_local Scratch scratch;
  const int64_t k = view_.k, groups = view_.groups;
  float* packed =
      scratch.floats(tokens * (k + groups));  // per 8 tokens: x [k][tokens], then sums [groups][tokens]
  for (int64_t t0 = 0; t0 < tokens; t0 += simd::kMaxGemvTokens) {
    const int tn = static_cast<int>(std::min<int64_t>(simd::kMaxGemvTokens, tokens - t0));
    float* xp = packed + t0 * (k + groups);
    float* sums = xp + tn * k;
    for (int t = 0; t < tn; ++t) {
      const float* row = x + (t0 + t) * k;
      for (int64_t i = 0; i < k; ++i) xp[i * tn + t] = row[i];
      for (int64_t g = 0; g < groups; ++g) sums[g * tn + t] = table_.sum(row + g * view_.group, view_.group);
    }
  }
  // Four row blocks at a time hide the latency of a single token's chain of sums.
  const int64_t blocks = std::max<int64_t>(4, round_up(65536 / std::max<int64_t>(1, k * simd::kRowBlock), 4));
  parallel_for(ceil_div(row_blocks_, blocks), [&](int64_t i) {
    const int64_t b0 = i * blocks, b1 = std::min(row_blocks_, b0 + blocks);
    for (int64_t t0 = 0; t0 < tokens; t0 += simd::kMaxGemvTokens) {
      const int64_t tn = std::min<int64_t>(simd::kMaxGemvTokens, tokens - t0);
      const float* xp = packed + t0 * (k + groups);
      table_.gemv_quant[tn](view_, b0, b1, out_, xp, xp + tn * k, y + t0 * ldy, ldy);
    }
  });
}

bool use_bf16(Precision precision) { return precision == Precision::kBf16 && simd::table().bf16; }

bool aligned(const Tensor& w) {
  return reinterpret_cast<uintptr_t>(w.bytes()) % static_cast<uintptr_t>(dtype_size(w.dtype())) == 0;
}

}  // namespace

std::unique_ptr<PackedLinear> pack_linear(const Tensor& w, Precision precision, Product product) {
  if (w.rank() != 2 || (w.dtype() != DType::kF32 && w.dtype() != DType::kF16 && w.dtype() != DType::kBF16))
    fail(Code::kUnsupported, "linear weight: expected F32, F16 or BF16 of rank 2, got {} {}",
         dtype_name(w.dtype()), shape_text(w.shape()));
  const bool bf16 = use_bf16(precision);
  if (bf16 && w.dtype() != DType::kBF16)
    return std::make_unique<DenseLinear>(w.to(DType::kBF16), true, product);
  return std::make_unique<DenseLinear>(aligned(w) ? w : w.clone(), bf16, product);
}

std::unique_ptr<PackedLinear> pack_linear(const QuantWeight& w, Precision precision, Product product) {
  const bool int8_activations = w.scheme.activations != Activations::kFloat;
  if ((int8_activations || precision == Precision::kFast) && int8_supports(w)) return pack_int8(w, product);
  if (int8_activations) return int8_activation_linear(w, precision, product);
  return std::make_unique<QuantLinear>(w, use_bf16(precision), product);
}

const Tensor* PackedForm::find(std::string_view name) const {
  const auto it = std::find_if(tensors.begin(), tensors.end(), [&](const auto& t) { return t.first == name; });
  return it == tensors.end() ? nullptr : &it->second;
}

std::unique_ptr<PackedLinear> linear_of(const PackedForm& form, Precision precision, Product product, const std::string& where) {
  if (form.kind == kInt8Form) return int8_of(form, product, where);
  if (form.kind == kCodesForm) return std::make_unique<QuantLinear>(form, use_bf16(precision), product, where);
  fail(Code::kBadFile, "{}: expected a packed linear of kind {} or {}, got '{}'", where, kInt8Form, kCodesForm, form.kind);
}

}  // namespace awq
