// Loading a block's weights by the names its ArchSpec declares.
#include <cmath>

#include "base/half.h"
#include "base/thread_pool.h"
#include "kernels/quant_ops.h"
#include "model/model.h"

namespace awq {

Tensor load_vector(const Checkpoint& checkpoint, const std::string& name, int64_t n) {
  return checkpoint.load_f32(name, {n});
}

namespace {

Tensor shifted(const Tensor& t, float by) {
  if (by == 0) return t.to_f32();
  Tensor out = t.to_f32().clone();
  for (int64_t i = 0; i < out.numel(); ++i) out.f32()[i] += by;
  return out;
}

}  // namespace

Tensor load_gain(const Checkpoint& checkpoint, const ModelConfig& config, const std::string& name, int64_t n) {
  return gain_of(config, load_vector(checkpoint, name, n));
}
Tensor stored_gain(const ModelConfig& config, const Tensor& gain) { return shifted(gain, -config.norm_offset); }
Tensor gain_of(const ModelConfig& config, const Tensor& stored) { return shifted(stored, config.norm_offset); }

float embedding_scale(const ModelConfig& config, DType stored) {
  if (!config.scaled_embedding) return 1;
  const auto scale = static_cast<float>(std::sqrt(static_cast<double>(config.hidden)));
  return stored == DType::kBF16 ? round_to_bf16(scale) : stored == DType::kF16 ? round_to_fp16(scale) : scale;
}

BlockWeights BlockWeights::clone() const {
  BlockWeights out = *this;
  for (auto& [name, gain] : out.norms) gain = gain.clone();
  for (auto& [module, bias] : out.biases) bias = bias.clone();
  for (auto& [module, weight] : out.weights)
    if (auto* dense = std::get_if<Tensor>(&weight)) *dense = dense->clone();
  return out;
}

Tensor BlockWeights::dense(const std::string& module) const {
  const WeightSource& source = weights.at(module);
  if (const auto* t = std::get_if<Tensor>(&source)) return t->to_f32();
  const auto& q = std::get<QuantWeight>(source);
  Tensor out(DType::kF32, {q.rows, q.cols});
  dequantize(q, out.f32());
  return out;
}

namespace {

WeightSource load_weight(const Checkpoint& checkpoint, const LinearSpec& linear) {
  if (!checkpoint.is_quantized(linear.module))
    return checkpoint.load_shaped(linear.module + ".weight", {linear.out, linear.in});
  QuantWeight q = checkpoint.load_quant(linear.module);
  if (q.rows != linear.out || q.cols != linear.in)
    fail(Code::kBadFile, "{}: '{}': expected {} outputs and {} inputs, got {} and {}",
         checkpoint.path().string(), linear.module, linear.out, linear.in, q.rows, q.cols);
  return q;
}

}  // namespace

BlockWeights load_block(const Checkpoint& checkpoint, const ModelConfig& config, const BlockSpec& spec,
                        bool dense_f32, const std::function<bool(const LinearSpec&)>& wanted) {
  // Mappings are read-only; quantization changes weights, norms and biases in place.
  const auto own = [&](const Tensor& t) { return dense_f32 ? t.clone() : t; };
  BlockWeights block;
  for (const NormSpec& norm : spec.norms(config))
    block.norms[norm.name] = own(load_gain(checkpoint, config, norm.name + ".weight", norm.dim));
  for (const LinearSpec& linear : spec.linears) {
    if (!wanted || wanted(linear)) block.weights[linear.module] = load_weight(checkpoint, linear);
    if (dense_f32) {
      Tensor dense = block.dense(linear.module);
      const auto* source = std::get_if<Tensor>(&block.weights[linear.module]);
      if (source != nullptr && source->bytes() == dense.bytes()) dense = dense.clone();
      block.weights[linear.module] = std::move(dense);
    }
    // AutoAWQ writes a bias for every linear it replaces when the source had one; qwen2 exports may omit
    // zeros.
    if (linear.bias) block.biases[linear.module] = own(load_vector(checkpoint, linear.module + ".bias", linear.out));
  }
  return block;
}

Tensor load_embedding(const Checkpoint& checkpoint, const ModelConfig& config) {
  Tensor t = checkpoint.load_shaped(kEmbedName, {config.vocab, config.hidden});
  const bool direct = t.dtype() == DType::kF32 || t.dtype() == DType::kF16 || t.dtype() == DType::kBF16;
  return direct ? t : t.to_f32();
}

Tensor load_head(const Checkpoint& checkpoint, const ModelConfig& config, const Tensor& embedding) {
  if (config.tied || !checkpoint.has(kHeadName)) {
    if (!config.tied)
      fail(Code::kBadFile, "{}: tensor '{}' is missing and tie_word_embeddings is false",
           checkpoint.path().string(), kHeadName);
    return embedding;
  }
  Tensor t = checkpoint.load_shaped(kHeadName, {config.vocab, config.hidden});
  const bool direct = t.dtype() == DType::kF32 || t.dtype() == DType::kF16 || t.dtype() == DType::kBF16;
  return direct ? t : t.to_f32();
}

QuantWeight round_table(const Tensor& table, int bits) {
  constexpr int64_t kRows = 1024;  // a part: its floats stay small beside the codes
  QuantWeight all;
  all.rows = table.dim(0);
  all.cols = table.dim(1);
  all.scheme = {.bits = bits, .group = -1, .zero = ZeroKind::kInteger};
  for (const int group : {32, 64, 128})
    if (all.cols % group == 0) all.scheme.group = group;
  const int64_t groups = all.groups();
  all.codes.resize(static_cast<size_t>(all.rows * all.cols));
  all.scales.resize(static_cast<size_t>(all.rows * groups));
  all.zeros.resize(all.scales.size());
  parallel_for((all.rows + kRows - 1) / kRows, [&](int64_t i) {
    const int64_t begin = i * kRows, end = std::min(all.rows, begin + kRows);
    const Tensor rows = table.rows(begin, end).to_f32();
    const QuantWeight part = quantize_minmax(rows.f32(), end - begin, all.cols, all.scheme, DType::kF16);
    std::copy(part.codes.begin(), part.codes.end(), all.codes.begin() + begin * all.cols);
    std::copy(part.scales.begin(), part.scales.end(), all.scales.begin() + begin * groups);
    std::copy(part.zeros.begin(), part.zeros.end(), all.zeros.begin() + begin * groups);
  });
  return all;
}

}  // namespace awq
