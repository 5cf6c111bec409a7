#include "quant/block_stage.h"

#include <cmath>
#include <future>

#include "base/thread_pool.h"
#include "model/block_runner.h"

namespace awq {
namespace {

class MaxObserver : public Observer {
 public:
  void on_input(int64_t, Site, const float* x, int64_t tokens, int64_t dim) override {
    for (int64_t i = 0; i < tokens * dim; ++i) largest = std::max(largest, std::fabs(x[i]));
  }
  float largest = 0;
};

class CpuStage : public BlockStage {
 public:
  CpuStage(const Checkpoint& checkpoint, std::shared_ptr<const ModelConfig> config, Precision precision)
      : checkpoint_(checkpoint), config_(std::move(config)), arch_(find_arch(config_->model_type, checkpoint.path().string())),
        precision_(precision) {}

  BlockWeights load(int64_t layer) override { return load_block(checkpoint_, *config_, arch_.block(*config_, layer), true); }
  void use(const BlockSpec& spec, const BlockWeights& weights) override {
    block_.reset();
    block_.emplace(config_, spec, weights, precision_);
  }
  void advance(HiddenStates& states, StatsObserver* stats) override { states.advance(*block_, scratch_, stats); }
  float advance_and_watch(HiddenStates& states) override {
    MaxObserver seen;
    states.advance(*block_, scratch_, &seen);
    return seen.largest;
  }
  BlockRounding round(const RoundingContext& context, int64_t layer, const BlockSpec& spec, const StatsObserver& stats,
                      BlockWeights& weights) override {
    block_.reset();  // its copy of the weights
    return round_block(context, layer, spec, stats, weights);
  }
  CheckResult compare(const HiddenStates& source, const Head& source_head, const HiddenStates& result, const Head& result_head,
                      const ProgressFn& progress) override {
    const auto source_matrix = pack_linear(source_head.matrix, precision_), result_matrix = pack_linear(result_head.matrix, precision_);
    return compare_outputs(source, {source_head.norm.f32(), source_matrix.get(), config_->rms_eps, config_->final_softcap}, result,
                           {result_head.norm.f32(), result_matrix.get(), config_->rms_eps, config_->final_softcap}, progress);
  }

 private:
  const Checkpoint& checkpoint_;
  std::shared_ptr<const ModelConfig> config_;
  const ArchSpec& arch_;
  Precision precision_;
  std::optional<Block> block_;
  Scratch scratch_;
};

class DeviceStage : public BlockStage {
 public:
  DeviceStage(const Checkpoint& checkpoint, std::shared_ptr<const ModelConfig> config, QuantBackend& backend)
      : checkpoint_(checkpoint), config_(std::move(config)), arch_(find_arch(config_->model_type, checkpoint.path().string())),
        backend_(backend),
        runner_(make_cuda_block_runner(config_, checkpoint.format().name == "BF16" ? DType::kBF16 : DType::kF16, backend)) {}
  ~DeviceStage() override {
    if (ahead_.valid()) ahead_.wait();
  }

  BlockWeights load(int64_t layer) override {
    if (!ahead_.valid() || ahead_layer_ != layer) read_ahead(layer);
    BlockWeights weights = ahead_.get();
    if (layer + 1 < config_->layers) read_ahead(layer + 1);
    return weights;
  }

  void use(const BlockSpec& spec, const BlockWeights& weights) override {
    matrices_.clear();
    for (const auto& [module, weight] : weights.weights)
      matrices_.emplace(module, std::visit([&](const auto& w) { return backend_.load(w); }, weight));
    runner_->use(spec, weights, matrices_);
  }

  void advance(HiddenStates& states, StatsObserver* stats) override {
    SiteSums sums;
    runner_->advance(states.sequences().lengths, states.mutable_values(), stats != nullptr ? &sums : nullptr);
    if (stats == nullptr) return;
    for (size_t i = 0; i < sums.size(); ++i) stats->take(static_cast<Site>(i), std::move(sums[i]));
  }

  float advance_and_watch(HiddenStates& states) override {
    StatsObserver stats(false);
    advance(states, &stats);
    float largest = 0;
    for (const Site site : {Site::kAttentionIn, Site::kAttentionOut, Site::kMlpIn, Site::kMlpDown})
      largest = std::max(largest, stats.at(site).abs_max);
    return largest;
  }

  BlockRounding round(const RoundingContext& context, int64_t layer, const BlockSpec& spec, const StatsObserver& stats,
                      BlockWeights& weights) override {
    runner_->release();
    const RoundingContext there{context.plan, context.options, context.dtype, context.precision, nullptr, backend_, &matrices_};
    BlockRounding rounding = round_block(there, layer, spec, stats, weights);
    // New memory costs more than the copies into it: all threads touch it first.
    std::vector<RoundedWeight*> all;
    for (auto& [module, q] : rounding.quantized) all.push_back(&q);
    parallel_for(static_cast<int64_t>(all.size()), [&](int64_t i) { all[i]->codes.resize(static_cast<size_t>(all[i]->rows * all[i]->cols)); });
    for (RoundedWeight* q : all) backend_.fetch(*q);
    // The others may have been scaled.
    for (auto& [module, matrix] : matrices_)
      if (!rounding.quantized.contains(module)) weights.weights.at(module) = backend_.read(matrix);
    matrices_.clear();
    return rounding;
  }

  CheckResult compare(const HiddenStates& source, const Head& source_head, const HiddenStates& result, const Head& result_head,
                      const ProgressFn&) override {
    matrices_.clear();
    // Every token but the last of each sequence has a target: its successor. The last ones get any.
    const TokenSequences& sequences = source.sequences();
    std::vector<int32_t> targets(sequences.ids.begin() + 1, sequences.ids.end());
    targets.push_back(sequences.ids.front());
    const auto losses = runner_->compare(source.values(), {source_head.norm.f32(), &source_head.matrix}, result.values(),
                                         {result_head.norm.f32(), &result_head.matrix}, targets);
    std::vector<TokenLoss> kept;
    size_t at = 0;
    for (const int64_t length : sequences.lengths) {
      for (int64_t i = 0; i + 1 < length; ++i) {
        const DeviceLoss& l = losses[at + static_cast<size_t>(i)];
        kept.push_back({l.kl, -l.logprob_source, -l.logprob, l.same_top != 0});
      }
      at += static_cast<size_t>(length);
    }
    return summarize(sequences, kept);
  }

  bool quick() const override { return true; }

 private:
  void read_ahead(int64_t layer) {
    if (ahead_.valid()) ahead_.wait();
    ahead_layer_ = layer;
    ahead_ = std::async(std::launch::async, [this, layer] {
      // Reading finds numbers that are not finite, and so brings every page of the file into memory.
      BlockWeights weights = load_block(checkpoint_, *config_, arch_.block(*config_, layer), false);
      for (auto& [name, gain] : weights.norms) gain = gain.clone();
      for (auto& [module, bias] : weights.biases) bias = bias.clone();
      return weights;
    });
  }

  const Checkpoint& checkpoint_;
  std::shared_ptr<const ModelConfig> config_;
  const ArchSpec& arch_;
  QuantBackend& backend_;
  std::unique_ptr<BlockRunner> runner_;
  BlockMatrices matrices_;
  std::future<BlockWeights> ahead_;
  int64_t ahead_layer_ = -1;
};

}  // namespace

std::unique_ptr<BlockStage> make_block_stage(const Checkpoint& checkpoint, std::shared_ptr<const ModelConfig> config, Precision precision,
                                             QuantBackend* backend) {
  if (backend == nullptr) return std::make_unique<CpuStage>(checkpoint, std::move(config), precision);
  return std::make_unique<DeviceStage>(checkpoint, std::move(config), *backend);
}

}  // namespace awq
