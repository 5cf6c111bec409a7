#include <cstring>

#include "model/model.h"

namespace awq {
namespace {

// Rows of several dense matrices of one dtype below each other.
Tensor stack_dense(const std::vector<const WeightSource*>& weights) {
  const auto& first = std::get<Tensor>(*weights[0]);
  int64_t rows = 0;
  for (const WeightSource* w : weights) rows += std::get<Tensor>(*w).dim(0);
  Tensor out(first.dtype(), {rows, first.dim(1)});
  std::byte* at = out.mutable_bytes();
  for (const WeightSource* w : weights) {
    const auto& t = std::get<Tensor>(*w);
    std::memcpy(at, t.bytes(), static_cast<size_t>(t.nbytes()));
    at += t.nbytes();
  }
  return out;
}

QuantWeight stack_quant(const std::vector<const WeightSource*>& weights) {
  QuantWeight out = std::get<QuantWeight>(*weights[0]);
  for (size_t i = 1; i < weights.size(); ++i) {
    const auto& q = std::get<QuantWeight>(*weights[i]);
    out.rows += q.rows;
    out.codes.insert(out.codes.end(), q.codes.begin(), q.codes.end());
    out.scales.insert(out.scales.end(), q.scales.begin(), q.scales.end());
    out.zeros.insert(out.zeros.end(), q.zeros.begin(), q.zeros.end());
    out.offsets.insert(out.offsets.end(), q.offsets.begin(), q.offsets.end());
  }
  return out;
}

bool alike(const WeightSource& a, const WeightSource& b) {
  if (a.index() != b.index()) return false;
  if (const auto* t = std::get_if<Tensor>(&a)) return t->dtype() == std::get<Tensor>(b).dtype();
  const auto &p = std::get<QuantWeight>(a), &q = std::get<QuantWeight>(b);
  return p.scheme == q.scheme && p.scale_dtype == q.scale_dtype;
}

std::unique_ptr<PackedLinear> pack(const WeightSource& w, const LinearOptions& o) {
  if (const auto* t = std::get_if<Tensor>(&w)) return pack_linear(*t, o.precision, o.product);
  return pack_linear(std::get<QuantWeight>(w), o.precision, o.product);
}

}  // namespace

Linear::Linear(const std::vector<const WeightSource*>& weights, Tensor bias, const LinearOptions& options) : bias_(std::move(bias)) {
  bool same = options.fuse && weights.size() > 1;
  for (const WeightSource* w : weights) same = same && alike(*weights[0], *w);
  if (!same) {
    for (const WeightSource* w : weights) parts_.push_back(pack(*w, options));
  } else if (std::holds_alternative<Tensor>(*weights[0])) {
    parts_.push_back(pack_linear(stack_dense(weights), options.precision, options.product));
  } else {
    parts_.push_back(pack_linear(stack_quant(weights), options.precision, options.product));
  }
  measure();
}

Linear::Linear(std::vector<std::unique_ptr<PackedLinear>> parts, Tensor bias) : parts_(std::move(parts)), bias_(std::move(bias)) {
  measure();
}

void Linear::measure() {
  for (const auto& part : parts_) out_ += part->out();
  in_ = parts_[0]->in();
  check_internal(bias_.empty() || bias_.numel() == out_, "a linear's bias does not fit its outputs");
}

void Linear::run(const float* x, int64_t tokens, float* y) const {
  float* at = y;
  for (const auto& part : parts_) {
    part->run(x, tokens, at, out_);
    at += part->out();
  }
  if (!bias_.empty()) add_bias(y, out_, bias_.f32(), tokens, out_);
}

int64_t Linear::bytes() const {
  int64_t total = bias_.empty() ? 0 : bias_.nbytes();
  for (const auto& part : parts_) total += part->bytes();
  return total;
}

}  // namespace awq
