#include "model/model.h"

#include <nlohmann/json.hpp>

#include "base/system.h"
#include "base/thread_pool.h"
#include "model/pack_cache.h"

namespace awq {

KvCache::KvCache(const ModelConfig& config, int64_t pages, DType dtype) : pages_(pages) {
  view_.dtype = dtype;
  view_.kv_heads = config.kv_heads;
  view_.head_dim = config.head_dim;
  storage_ = Tensor(DType::kU8, {config.layers, pages, view_.page_bytes()});
  view_.base = storage_.mutable_bytes();
}

KvCache::KvCache(const Model& model, int64_t pages, DType dtype) {
  if (model.device() == nullptr) {
    *this = KvCache(model.config(), pages, dtype);
    return;
  }
  pages_ = pages;
  device_bytes_ = pages * page_bytes(model, dtype);
  device_ = model.device()->make_cache(pages, dtype);
}

KvLayerView KvCache::layer(int64_t index) const {
  KvLayerView v = view_;
  v.base += index * pages_ * view_.page_bytes();
  return v;
}

int64_t KvCache::page_bytes(const ModelConfig& config, DType dtype) {
  return config.layers * KvLayerView{nullptr, dtype, config.kv_heads, config.head_dim}.page_bytes();
}

int64_t KvCache::page_bytes(const Model& model, DType dtype) {
  return model.device() != nullptr ? model.device()->page_bytes(dtype) : page_bytes(model.config(), dtype);
}

namespace {

std::unique_ptr<PackedLinear> pack_head(const Tensor& head, const LinearOptions& options, int bits) {
  return bits == 0 ? pack_linear(head, options.precision, options.product)
                   : pack_linear(round_table(head, bits), options.precision, options.product);
}

// Whether the embedding's rows are those of the output layer's resident form.
bool gives_rows(const ModelConfig& config, const PackedLinear& head) {
  std::vector<float> probe(static_cast<size_t>(config.hidden));
  return config.tied && head.row(0, probe.data());
}

// The type load_embedding gives it.
DType embedding_dtype(const Checkpoint& checkpoint) {
  const std::string& stored = checkpoint.find(kEmbedName)->dtype;
  return stored == "F16" ? DType::kF16 : stored == "BF16" ? DType::kBF16 : DType::kF32;
}

constexpr const char* kPackedHead = "lm_head";
constexpr const char* kKeptEmbedding = "embedding";

// The embedding as packed linears need it beside them. One that a checkpoint has to decode first is kept, too.
Tensor embedding_beside(const Checkpoint& checkpoint, const ModelConfig& config, PackCache* cache) {
  if (cache == nullptr || !checkpoint.is_gguf()) return load_embedding(checkpoint, config);
  if (auto kept = cache->take_tensor(kKeptEmbedding)) {
    if (kept->shape() == Shape{config.vocab, config.hidden} && kept->dtype() == DType::kF32) return std::move(*kept);
  }
  return load_embedding(checkpoint, config);
}

}  // namespace

void check_invariant(const LoadOptions& options) {
  if (options.invariant && options.device == Device::kCpu && (options.precision == Precision::kBf16 || options.product == Product::kAuto))
    fail(Code::kUnsupported, "--invariant: expected --precision fast or exact on the CPU; bf16 orders its sums by the number of tokens");
}

Model::Model(std::shared_ptr<const ModelConfig> config, Tensor embedding, Tensor final_norm,
             const Tensor& head, std::vector<std::unique_ptr<Block>> blocks, const LinearOptions& options,
             int head_bits)
    : Model(config, embedding, embedding.dtype(), std::move(final_norm), pack_head(head, options, head_bits), std::move(blocks)) {}

Model::Model(std::shared_ptr<const ModelConfig> config, Tensor embedding, DType stored, Tensor final_norm,
             std::unique_ptr<PackedLinear> head, std::vector<std::unique_ptr<Block>> blocks)
    : config_(std::move(config)),
      embedding_(std::move(embedding)),
      final_norm_(std::move(final_norm)),
      embedding_scale_(embedding_scale(*config_, stored)),
      blocks_(std::move(blocks)),
      head_(std::move(head)) {
  if (gives_rows(*config_, *head_)) embedding_ = Tensor();
}

std::shared_ptr<const Model> Model::load(const Checkpoint& checkpoint, const LoadOptions& options) {
  const std::string where = checkpoint.path().string();
  const auto config = std::make_shared<const ModelConfig>(parse_model_config(checkpoint.config(), where));
  const ArchSpec& arch = find_arch(config->model_type, where);
  const bool on_device = options.device == Device::kCuda;
  check_invariant(options);
  Tensor embedding = on_device ? load_embedding(checkpoint, *config) : Tensor();
  const std::shared_ptr<DeviceModel> device = on_device ? make_cuda_model(config, embedding, options.invariant) : nullptr;
  std::optional<PackCache> cache;
  LinearOptions linear = options.linear();
  if (!device && !options.pack_cache.empty()) linear.packed = &cache.emplace(options.pack_cache, checkpoint, options);
  std::vector<std::unique_ptr<Block>> blocks;
  for (int64_t i = 0; i < config->layers; ++i) {
    check_cancelled();
    const BlockSpec spec = arch.block(*config, i);
    const auto wanted = [&](const LinearSpec& l) { return !cache || !cache->has(packed_name(spec, l.reads)); };
    BlockWeights weights = load_block(checkpoint, *config, spec, false, wanted);
    quantize_loaded(options.load_in, weights);
    if (device)
      device->add_block(spec, weights);
    else
      blocks.push_back(std::make_unique<Block>(config, spec, weights, linear));
    checkpoint.let_go();  // what was packed
    if (options.progress)
      options.progress({"load", static_cast<double>(i + 1), static_cast<double>(config->layers), "blocks"});
  }
  const Tensor final_norm = load_gain(checkpoint, *config, kFinalNormName, config->hidden);
  if (device) {
    device->finish(final_norm, load_head(checkpoint, *config, embedding), options.head_bits);
    return_freed_memory();
    return std::make_shared<Model>(config, device);
  }
  std::unique_ptr<PackedLinear> head;
  if (cache && cache->has(kPackedHead)) {
    auto parts = cache->take(kPackedHead);
    if (parts.size() != 1 || parts[0]->out() != config->vocab || parts[0]->in() != config->hidden)
      fail(Code::kBadFile, "{}: the packed output layer does not fit the model; delete the files in it", options.pack_cache.string());
    head = std::move(parts[0]);
    if (!gives_rows(*config, *head)) embedding = embedding_beside(checkpoint, *config, &*cache);
  } else {
    embedding = embedding_beside(checkpoint, *config, cache ? &*cache : nullptr);
    head = pack_head(load_head(checkpoint, *config, embedding), linear, options.head_bits);
    if (cache) {
      cache->keep(kPackedHead, {head.get()});
      if (checkpoint.is_gguf() && !gives_rows(*config, *head)) cache->keep_tensor(kKeptEmbedding, embedding);
    }
  }
  if (cache) cache->save();
  auto model = std::make_shared<Model>(config, std::move(embedding), embedding_dtype(checkpoint), final_norm, std::move(head), std::move(blocks));
  checkpoint.let_go();
  return_freed_memory();
  return model;
}

void Model::embed_tokens(std::span<const int32_t> ids, float* hidden) const {
  embedding_rows(ids, hidden);
  if (embedding_scale_ == 1) return;
  parallel_for(static_cast<int64_t>(ids.size()), [&](int64_t i) {
    for (int64_t k = 0; k < config_->hidden; ++k) hidden[i * config_->hidden + k] *= embedding_scale_;
  });
}

void Model::embedding_rows(std::span<const int32_t> ids, float* hidden) const {
  if (!embedding_.empty()) return embed(embedding_, ids, hidden);
  for (const int32_t id : ids)
    if (id < 0 || id >= config_->vocab)
      fail(Code::kBadArgument, "token id {}: expected 0 to {}", id, config_->vocab - 1);
  parallel_for(static_cast<int64_t>(ids.size()),
               [&](int64_t i) { head_->row(ids[static_cast<size_t>(i)], hidden + i * config_->hidden); });
}

void Model::forward(const BatchView& batch, const KvCache* cache, Scratch& scratch,
                    std::vector<float>& hidden, Observer* observer) const {
  const int64_t tokens = static_cast<int64_t>(batch.tokens.size());
  const size_t n = static_cast<size_t>(tokens * config_->hidden);
  if (hidden.size() < n) hidden.resize(n);
  if (device_) {
    if (observer) fail(Code::kUnsupported, "--device cuda: calibration runs on the CPU; use --device auto or cpu");
    return device_->forward(batch, cache ? cache->device() : nullptr, hidden.data());
  }
  embed_tokens(batch.tokens, hidden.data());
  for (size_t i = 0; i < blocks_.size(); ++i) {
    const KvLayerView view = cache ? cache->layer(static_cast<int64_t>(i)) : KvLayerView{};
    if (observer) observer->on_hidden(static_cast<int64_t>(i), hidden.data(), tokens, config_->hidden);
    blocks_[i]->forward(hidden.data(), batch, cache ? &view : nullptr, scratch, observer);
  }
  if (observer)
    observer->on_hidden(static_cast<int64_t>(blocks_.size()), hidden.data(), tokens, config_->hidden);
  rms_norm(hidden.data(), final_norm_.f32(), 0, config_->rms_eps, tokens, config_->hidden, hidden.data());
}

void Model::logits(const float* hidden, int64_t rows, float* out) const {
  if (device_) return device_->logits(hidden, rows, out);
  head_->run(hidden, rows, out, config_->vocab);
  if (config_->final_softcap > 0) softcap(out, config_->final_softcap, rows * config_->vocab);
}

void Model::forward(const BatchView& batch, const KvCache* cache, Scratch& scratch, States& states) const {
  if (device_) return device_->forward(batch, cache ? cache->device() : nullptr, states.device);
  forward(batch, cache, scratch, states.host);
}

void Model::draw(const States& states, std::span<const RowDraw> rows, DrawnRows& out) const {
  if (device_) return device_->draw(states.device.get(), rows, out);
  const int64_t n = static_cast<int64_t>(rows.size()), hidden = config_->hidden;
  out.tokens.assign(rows.size(), -1);
  out.states.clear();
  for (const RowDraw& r : rows) {
    const float* state = states.host.data() + r.row * hidden;
    out.states.insert(out.states.end(), state, state + hidden);
  }
  if (static_cast<int64_t>(out.logits.size()) < n * config_->vocab) out.logits.resize(static_cast<size_t>(n * config_->vocab));
  logits(out.states.data(), n, out.logits.data());
}

int64_t Model::decode_bytes() const {
  if (device_) return device_->decode_bytes();
  int64_t total = head_->bytes();
  for (const auto& b : blocks_) total += b->bytes();
  return total;
}

int64_t Model::bytes() const {
  if (device_) return device_->bytes();
  const bool shared = config_->tied && head_->bytes() == embedding_.nbytes();
  return decode_bytes() + (shared ? 0 : embedding_.nbytes());
}

std::map<std::string, int64_t> Model::kernels() const {
  if (device_) return device_->kernels();
  std::map<std::string, int64_t> all = {{head_->kernel(), head_->bytes()}};
  for (const auto& block : blocks_)
    for (const Linear* linear : block->linears())
      for (const auto& part : linear->parts()) all[part->kernel()] += part->bytes();
  return all;
}

}  // namespace awq
