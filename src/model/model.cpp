#include "model/model.h"

#include <nlohmann/json.hpp>

namespace awq {

KvCache::KvCache(const ModelConfig& config, int64_t pages, DType dtype) : pages_(pages) {
  view_.dtype = dtype;
  view_.kv_heads = config.kv_heads;
  view_.head_dim = config.head_dim;
  storage_ = Tensor(DType::kU8, {config.layers, pages, view_.page_bytes()});
  view_.base = storage_.mutable_bytes();
}

KvLayerView KvCache::layer(int64_t index) const {
  KvLayerView v = view_;
  v.base += index * pages_ * view_.page_bytes();
  return v;
}

int64_t KvCache::page_bytes(const ModelConfig& config, DType dtype) {
  return 2 * config.layers * config.kv_heads * kPageTokens * config.head_dim * dtype_size(dtype);
}

Model::Model(std::shared_ptr<const ModelConfig> config, Tensor embedding, Tensor final_norm, const Tensor& head,
             std::vector<std::unique_ptr<Block>> blocks, Precision precision)
    : config_(std::move(config)),
      embedding_(std::move(embedding)),
      final_norm_(std::move(final_norm)),
      blocks_(std::move(blocks)),
      head_(pack_linear(head, precision)) {}

std::shared_ptr<const Model> Model::load(const Checkpoint& checkpoint, const LoadOptions& options) {
  const std::string where = checkpoint.path().string();
  const auto config = std::make_shared<const ModelConfig>(parse_model_config(checkpoint.config(), where));
  const ArchSpec& arch = find_arch(config->model_type, where);
  std::vector<std::unique_ptr<Block>> blocks;
  for (int64_t i = 0; i < config->layers; ++i) {
    check_cancelled();
    const BlockSpec spec = arch.block(*config, i);
    const BlockWeights weights = load_block(checkpoint, *config, spec, false);
    blocks.push_back(std::make_unique<Block>(config, spec, weights, options.precision));
    if (options.progress) options.progress({"load", static_cast<double>(i + 1), static_cast<double>(config->layers), "blocks"});
  }
  const Tensor embedding = load_embedding(checkpoint, *config);
  const Tensor head = load_head(checkpoint, *config, embedding);
  return std::make_shared<Model>(config, embedding, load_vector(checkpoint, kFinalNormName, config->hidden), head, std::move(blocks),
                                 options.precision);
}

void Model::forward(const BatchView& batch, const KvCache* cache, Scratch& scratch, std::vector<float>& hidden,
                    Observer* observer) const {
  const int64_t tokens = static_cast<int64_t>(batch.tokens.size());
  const size_t n = static_cast<size_t>(tokens * config_->hidden);
  if (hidden.size() < n) hidden.resize(n);
  embed(embedding_, batch.tokens, hidden.data());
  for (size_t i = 0; i < blocks_.size(); ++i) {
    const KvLayerView view = cache ? cache->layer(static_cast<int64_t>(i)) : KvLayerView{};
    if (observer) observer->on_hidden(static_cast<int64_t>(i), hidden.data(), tokens, config_->hidden);
    blocks_[i]->forward(hidden.data(), batch, cache ? &view : nullptr, scratch, observer);
  }
  if (observer) observer->on_hidden(static_cast<int64_t>(blocks_.size()), hidden.data(), tokens, config_->hidden);
  rms_norm(hidden.data(), final_norm_.f32(), 0, config_->rms_eps, tokens, config_->hidden, hidden.data());
}

void Model::logits(const float* hidden, int64_t rows, float* out) const { head_->run(hidden, rows, out, config_->vocab); }

int64_t Model::decode_bytes() const {
  int64_t total = head_->bytes();
  for (const auto& b : blocks_) total += b->bytes();
  return total;
}

int64_t Model::bytes() const { return decode_bytes() + (config_->tied ? 0 : embedding_.nbytes()); }

}  // namespace awq
