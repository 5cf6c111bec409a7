#include "kernels/quant_ops.h"
#include "model/model.h"

namespace awq {
namespace {

constexpr Scheme kNf4{CodeKind::kNf4, 4, 64, ZeroKind::kNone};
constexpr Scheme kLlmInt8{CodeKind::kAffine, 8, -1, ZeroKind::kNone, Activations::kInt8Outliers, 6.0f};

Scheme rtn_scheme(int64_t cols) {
  for (const int group : {128, 64, 32})
    if (cols % group == 0) return {CodeKind::kAffine, 4, group, ZeroKind::kInteger};
  return {CodeKind::kAffine, 4, -1, ZeroKind::kInteger};
}

}  // namespace

void quantize_loaded(LoadIn load_in, BlockWeights& block) {
  if (load_in == LoadIn::kStored) return;
  for (auto& [module, weight] : block.weights) {
    if (!std::holds_alternative<Tensor>(weight)) continue;
    const Tensor dense = block.dense(module);
    const int64_t rows = dense.dim(0), cols = dense.dim(1);
    if (load_in == LoadIn::kNf4 && cols % kNf4.group != 0) continue;
    weight = load_in == LoadIn::kNf4 ? quantize_nf4(dense.f32(), rows, cols, kNf4)
             : load_in == LoadIn::kRtn
                 ? quantize_minmax(dense.f32(), rows, cols, rtn_scheme(cols), DType::kF16)
                 : quantize_absmax(dense.f32(), rows, cols, kLlmInt8, DType::kF32);
  }
}

}  // namespace awq
