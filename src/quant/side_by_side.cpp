#include "quant/side_by_side.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "base/system.h"
#include "quant/rounders.h"
#include "quant/stats_file.h"

namespace awq {
namespace {

// The channels of one linear that stay as they are.
std::vector<int64_t> salient_channels(Salient by, const Tensor& w, const SiteStats& stats, uint32_t seed) {
  const int64_t cols = w.dim(1);
  std::vector<double> score(static_cast<size_t>(cols), 0.0);
  if (by == Salient::kByActivation) std::copy(stats.abs_sum.begin(), stats.abs_sum.end(), score.begin());
  if (by == Salient::kByWeight)
    for (int64_t i = 0; i < w.numel(); ++i) score[i % cols] += std::fabs(w.f32()[i]);
  if (by == Salient::kAtRandom) {
    std::mt19937 rng(seed);
    for (double& s : score) s = static_cast<double>(rng());
  }
  std::vector<int64_t> order(static_cast<size_t>(cols));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return score[a] > score[b]; });
  order.resize(static_cast<size_t>(std::max<int64_t>(1, std::llround(kSalientShare * static_cast<double>(cols)))));
  return order;
}

Tensor with_salient(const Tensor& w, const QuantWeight& q, const std::vector<int64_t>& channels) {
  Tensor out(DType::kF32, w.shape());
  dequantize(q, out.f32());
  for (int64_t n = 0; n < q.rows; ++n)
    for (const int64_t k : channels) out.f32()[n * q.cols + k] = w.f32()[n * q.cols + k];
  return out;
}

class Run {
 public:
  Run(const Checkpoint& checkpoint, const std::vector<Contender>& contenders, const QuantizeInputs& inputs, Precision run_precision,
      const ProgressFn& progress, const StatsFiles& files, const std::vector<TokenSequences>& texts)
      : checkpoint_(checkpoint), contenders_(contenders), inputs_(inputs), run_precision_(run_precision), progress_(progress),
        texts_(texts),
        stats_(inputs.precision == Precision::kBf16, wants(keeps_sample) || !files.save.empty()) {
    if (!files.load.empty()) reader_.emplace(files.load, stats_identity(checkpoint, inputs));
    if (!files.save.empty()) writer_.emplace(files.save, stats_identity(checkpoint, inputs));
    for (const Contender& c : contenders) {
      plans_.push_back(plan_quantize(checkpoint, c.options, inputs.calibration.tokens()));
      const QuantizePlan& plan = plans_.back();
      double bits = plan.bits_per_weight;
      if (c.salient != Salient::kNone) bits += kSalientShare * (16 - bits);
      out_.results.push_back({c.label, c.options.method, plan.scheme_text(), c.salient == Salient::kNone ? plan.format : "none", bits,
                              plan.weight_bytes, plan.memory_bytes, 0, {}, nullptr});
    }
    config_ = std::make_shared<const ModelConfig>(plans_.front().config);
    blocks_.resize(contenders.size());
  }

  SideBySide run() {
    out_.dtype = choose_dtype(checkpoint_, plans_.front(), contenders_.front().options, first_sequences(inputs_.calibration, 1));
    const Tensor embedding = load_embedding(checkpoint_, *config_);
    if (inputs_.calibration.count() > 0) states_.emplace(inputs_.calibration, *config_, embedding);
    if (inputs_.calibration.count() > 0) {
      const int64_t half = std::max<int64_t>(1, inputs_.calibration.count() / 2);
      texts_.insert(texts_.begin(), evenly_spaced(inputs_.calibration, std::min(kShiftSequences, half)));
      shift_.emplace(texts_, *config_, embedding);
    }
    const ArchSpec& arch = find_arch(config_->model_type, checkpoint_.path().string());
    for (int64_t i = 0; i < config_->layers; ++i) {
      report(i);
      one_block(i, arch.block(*config_, i));
    }
    report(config_->layers);
    if (writer_) writer_->finish();
    if (shift_) out_.shifts = shift_->shifts();
    assemble(embedding);
    return std::move(out_);
  }

 private:
  bool wants(bool (*property)(const std::string&)) const {
    return std::any_of(contenders_.begin(), contenders_.end(), [&](const Contender& c) { return property(c.options.method); });
  }
  void report(int64_t done) const {
    if (progress_) progress_({"quantize", static_cast<double>(done), static_cast<double>(config_->layers), "blocks"});
  }

  void one_block(int64_t layer, const BlockSpec& spec) {
    check_cancelled();
    const double start = now_seconds();
    const BlockWeights dense = load_block(checkpoint_, *config_, spec, true);
    stats_.reset();
    std::optional<HiddenStates> before;
    if (states_ && wants(keeps_inputs)) before = states_;
    // Methods that replay the block need the states even where the statistics are known.
    const Block block(config_, spec, dense, inputs_.precision);
    if (states_ && (!reader_ || wants(keeps_inputs))) states_->advance(block, scratch_, reader_ ? nullptr : &stats_);
    if (reader_) reader_->next(stats_);
    if (writer_) writer_->add(stats_);
    if (shift_) shift_->next(block, stats_);
    // Of the source the stored numbers, not their fp32 copies, are what runs.
    source_blocks_.push_back(std::make_unique<Block>(config_, spec, load_block(checkpoint_, *config_, spec, false), run_precision_));
    out_.statistics_seconds += now_seconds() - start;
    for (size_t c = 0; c < contenders_.size(); ++c) round(c, layer, spec, dense, before ? &*before : nullptr);
  }

  void round(size_t c, int64_t layer, const BlockSpec& spec, const BlockWeights& dense, const HiddenStates* before) {
    const double start = now_seconds();
    BlockWeights weights = dense.clone();
    const RoundingContext context{plans_[c], contenders_[c].options, out_.dtype, inputs_.precision, before};
    BlockRounding rounding = round_block(context, layer, spec, stats_, weights);
    if (contenders_[c].salient != Salient::kNone) keep_salient(c, layer, dense, rounding, weights);
    store(c, rounding, weights);
    ContenderResult& result = out_.results[c];
    result.layers.insert(result.layers.end(), rounding.reports.begin(), rounding.reports.end());
    result.seconds += now_seconds() - start;
    blocks_[c].push_back(std::make_unique<Block>(config_, spec, weights, run_precision_));
  }

  // What a written checkpoint would hold.
  void store(size_t c, BlockRounding& rounding, BlockWeights& weights) const {
    for (auto& [name, gain] : weights.norms) gain = written_gain(gain);
    for (auto& [module, bias] : weights.biases) bias = bias.to(out_.dtype).to_f32();
    for (auto& [module, weight] : weights.weights) {
      const auto q = rounding.quantized.find(module);
      if (q == rounding.quantized.end()) {
        weight = std::get<Tensor>(weight).to(out_.dtype);
      } else if (plans_[c].form == StoredForm::kBnbNf4) {
        weight = decode_weight(StoredForm::kBnbNf4, encode_weight(StoredForm::kBnbNf4, q->second, out_.dtype), {}, module);
      } else {
        weight = std::move(q->second);
      }
    }
  }

  Tensor written_gain(const Tensor& gain) const { return gain_of(*config_, stored_gain(*config_, gain).to(out_.dtype)); }

  void keep_salient(size_t c, int64_t layer, const BlockWeights& dense, BlockRounding& rounding, BlockWeights& weights) const {
    for (const PlannedLinear& l : plans_[c].blocks[layer]) {
      const auto q = rounding.quantized.find(l.spec.module);
      if (q == rounding.quantized.end()) continue;
      const Tensor& w = std::get<Tensor>(dense.weights.at(l.spec.module));
      const SiteStats& stats = stats_.at(l.spec.reads);
      const auto channels = salient_channels(contenders_[c].salient, w, stats, static_cast<uint32_t>(layer * 100 + &l - plans_[c].blocks[layer].data()));
      Tensor kept = with_salient(w, q->second, channels);
      for (LayerReport& r : rounding.reports)
        if (r.module == l.spec.module) r.relative_error = relative_error(w, std::as_const(kept), stats), r.chosen = "round to nearest, 1 % of the channels in 16 bits";
      weights.weights.at(l.spec.module) = std::move(kept);
      rounding.quantized.erase(q);
    }
  }

  void assemble(const Tensor& embedding) {
    const Tensor norm = load_gain(checkpoint_, *config_, kFinalNormName, config_->hidden), head = load_head(checkpoint_, *config_, embedding);
    out_.source = std::make_shared<Model>(config_, embedding, norm, head, std::move(source_blocks_), run_precision_);
    const Tensor table = embedding.to(out_.dtype), gain = written_gain(norm), top = config_->tied ? table : head.to(out_.dtype);
    for (size_t c = 0; c < contenders_.size(); ++c)
      out_.results[c].model = std::make_shared<Model>(config_, table, gain, top, std::move(blocks_[c]), run_precision_);
  }

  const Checkpoint& checkpoint_;
  const std::vector<Contender>& contenders_;
  const QuantizeInputs& inputs_;
  Precision run_precision_;
  const ProgressFn& progress_;
  std::vector<TokenSequences> texts_;
  StatsObserver stats_;
  std::vector<QuantizePlan> plans_;
  std::shared_ptr<const ModelConfig> config_;
  std::optional<HiddenStates> states_;
  Scratch scratch_;
  std::optional<ShiftMeter> shift_;
  std::optional<StatsReader> reader_;
  std::optional<StatsWriter> writer_;
  std::vector<std::unique_ptr<Block>> source_blocks_;
  std::vector<std::vector<std::unique_ptr<Block>>> blocks_;  // of each contender
  SideBySide out_;
};

}  // namespace

SideBySide quantize_side_by_side(const Checkpoint& checkpoint, const std::vector<Contender>& contenders, const QuantizeInputs& inputs,
                                 Precision run_precision, const ProgressFn& progress, const StatsFiles& files,
                                 const std::vector<TokenSequences>& texts) {
  if (contenders.empty()) fail(Code::kBadArgument, "nothing to compare: expected at least one method");
  return Run(checkpoint, contenders, inputs, run_precision, progress, files, texts).run();
}

}  // namespace awq
