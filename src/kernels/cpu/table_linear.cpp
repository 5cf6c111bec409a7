// Linears whose weights are looked up: W[n][k] = value[code] * scale + offset, with value the nf4 table or
// the code itself. Codes lie as in the rows of W, two in a byte up to 4 bits (the first in the low nibble);
// every product, of one token too, goes through dequantized panels.
#include <algorithm>
#include <vector>

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/linear_kinds.h"
#include "kernels/cpu/scratch.h"
#include "tensor/tensor.h"

namespace awq {
namespace {

class TableLinear final : public PackedLinear, private PanelSource {
 public:
  TableLinear(const QuantWeight& w, bool bf16)
      : table_(simd::table()),
        bf16_(bf16),
        out_(w.rows),
        in_(w.cols),
        group_(w.scheme.group_size(w.cols)),
        groups_(w.groups()),
        name_(w.scheme.code == CodeKind::kNf4 ? "nf4" : "table"),
        nibbles_(w.scheme.bits <= 4),
        scales_(w.scales),
        offsets_(w.offsets) {
    check_consistent(w);
    for (int c = 0; c <= w.scheme.max_code(); ++c)
      values_.push_back(w.scheme.code == CodeKind::kNf4 ? kNf4Values[c] : static_cast<float>(c));
    stride_ = nibbles_ ? ceil_div(in_, 2) : in_;
    codes_.assign(static_cast<size_t>(out_ * stride_), 0);
    for (int64_t n = 0; n < out_; ++n)
      for (int64_t k = 0; k < in_; ++k) {
        const uint8_t code = w.codes[n * in_ + k];
        if (nibbles_)
          codes_[n * stride_ + k / 2] |= static_cast<uint8_t>(code << 4 * (k % 2));
        else
          codes_[n * stride_ + k] = code;
      }
  }

  void run(const float* x, int64_t tokens, float* y, int64_t ldy) const override {
    gemm(table_, bf16_, *this, x, in_, tokens, out_, in_, y, ldy);
  }
  int64_t out() const override { return out_; }
  int64_t in() const override { return in_; }
  int64_t bytes() const override {
    return static_cast<int64_t>(codes_.size() + (scales_.size() + offsets_.size()) * sizeof(float));
  }
  std::string kernel() const override {
    return fmt::format("{}-{}{}", name_, table_.name, bf16_ ? "-bf16" : "");
  }

 private:
  void pack(int64_t panel, int64_t k0, int64_t kn, float* out) const override {
    thread_local Scratch scratch;
    float* dense = scratch.floats(table_.nr * kn);
    const int rows = static_cast<int>(std::min<int64_t>(table_.nr, out_ - panel * table_.nr));
    const void* at[simd::kMaxNr];
    for (int r = 0; r < rows; ++r) {
      dequantize_part(panel * table_.nr + r, k0, kn, dense + r * kn);
      at[r] = dense + r * kn;
    }
    const auto put = (bf16_ ? table_.pack_b_bf16 : table_.pack_b)[static_cast<int>(simd::Elem::kF32)];
    put(at, rows, 0, kn, out);
  }

  void dequantize_part(int64_t n, int64_t k0, int64_t kn, float* out) const {
    const uint8_t* codes = codes_.data() + n * stride_;
    for (int64_t k = k0; k < k0 + kn;) {
      const int64_t g = k / group_, end = std::min(k0 + kn, (g + 1) * group_);
      const float scale = scales_[n * groups_ + g],
                  offset = offsets_.empty() ? 0.0f : offsets_[n * groups_ + g];
      float level[256];
      for (size_t c = 0; c < values_.size(); ++c) level[c] = values_[c] * scale + offset;
      if (nibbles_) {
        for (; k < end; ++k) *out++ = level[codes[k / 2] >> 4 * (k % 2) & 15];
      } else {
        for (; k < end; ++k) *out++ = level[codes[k]];
      }
    }
  }

  const simd::Table& table_;
  bool bf16_;
  int64_t out_, in_, group_, groups_, stride_ = 0;
  const char* name_;
  bool nibbles_;
  std::vector<float> scales_, offsets_, values_;
  std::vector<uint8_t> codes_;
};

}  // namespace

std::unique_ptr<PackedLinear> table_linear(const QuantWeight& w, bool bf16) {
  return std::make_unique<TableLinear>(w, bf16);
}

}  // namespace awq
