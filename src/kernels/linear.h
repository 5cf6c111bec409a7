// Linear layers y = x Wᵀ + b as the runtime sees them: a weight is prepacked once, then run for any number of
// tokens. GEMV or GEMM is chosen inside run() by the number of tokens; a checkpoint's format never decides
// it.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tensor/tensor.h"
#include "weights/quant_weight.h"

namespace awq {

// kExact: fp32 activations and products, weights at their stored precision.
// kBf16: activations and dense weights rounded to bfloat16 before the product, fp32 accumulation; on machines
// without bf16 instructions this is emulated nowhere: it falls back to kExact.
//
// A few tokens stream the stored weights, more go through dense panels (cpu/linear.cpp has the limits). Each
// way is deterministic; between them sums are ordered differently, about 1e-6 of the largest output, which
// Product::kInvariant avoids. In kBf16 dense weights see the same rounded operands both ways. Quantized weights
// do not: streaming multiplies the exact (q - z) s by fp32 activations, panels round both to bf16 (2^-9 each),
// so use kExact where decode must equal prefill.
//
// kFast: quantized weights meet activations rounded to int8, one scale per token and group
// (docs/benchmarks.md has the effect on perplexity). Products and sums within a group are exact integers, the
// groups are added in order: a token gets the same bits in any batch, for any number of threads and on any
// instruction set. Dense weights, and schemes the int8 kernels do not take, behave as in kExact.
enum class Precision : uint8_t { kExact, kBf16, kFast };
// How tokens meet the weights. kAuto goes by their number; kInvariant gives a token the same bits whatever comes with it, in
// kExact and kFast (in kBf16 it is kAuto); kGemv and kGemm are for measuring.
enum class Product : uint8_t { kAuto, kInvariant, kGemv, kGemm };

// The resident form of a linear as plain tensors, from which it can be taken up again without packing. It does not depend on
// the instruction set.
struct PackedForm {
  std::string kind;              // which resident form, with its version
  std::vector<int64_t> numbers;  // what it needs besides the tensors
  std::vector<std::pair<std::string, Tensor>> tensors;
  const Tensor* find(std::string_view name) const;
};

class PackedLinear {
 public:
  virtual ~PackedLinear() = default;
  // x [tokens, in] with row stride in; y [tokens, out] with row stride ldy (>= out; other columns untouched).
  // y is overwritten. Deterministic for any number of threads. tokens may be 0.
  virtual void run(const float* x, int64_t tokens, float* y, int64_t ldy) const = 0;
  virtual int64_t out() const = 0;
  virtual int64_t in() const = 0;
  virtual int64_t bytes() const = 0;       // resident bytes, what a decode step must read
  // Output n's weights [in] as floats, false where this form cannot give them: the embedding of a tied model is its head.
  virtual bool row(int64_t /*n*/, float* /*out*/) const { return false; }
  virtual std::optional<PackedForm> form() const { return std::nullopt; }  // nothing where packing is no work
  virtual std::string kernel() const = 0;  // "w4-avx512", "dense-bf16-avx2", ... for `awq bench` and logs
};

// w [out, in] F32, F16 or BF16. F32 is kept as is (no copy when the tensor owns or maps aligned memory).
std::unique_ptr<PackedLinear> pack_linear(const Tensor& w, Precision precision,
                                          Product product = Product::kAuto);
// Any Scheme; 4-bit codes stay 4 bits resident. With int8 activations a token's inputs become integers -127..127 of one
// scale, round half to even, and the products are of integers in every precision.
std::unique_ptr<PackedLinear> pack_linear(const QuantWeight& w, Precision precision,
                                          Product product = Product::kAuto);

// A linear of such a form. Every size is checked; kBadFile, naming `where`, when it is not one.
std::unique_ptr<PackedLinear> linear_of(const PackedForm& form, Precision precision, Product product, const std::string& where);

}  // namespace awq
