#include "eval/diagnose.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "base/system.h"
#include "kernels/quant_ops.h"
#include "quant/rounders.h"
#include "quant/unfold.h"

namespace awq {
namespace {

constexpr int64_t kKeptLogits = int64_t{1} << 30;  // bytes, at most

const Site kSites[] = {Site::kAttentionIn, Site::kAttentionOut, Site::kMlpIn, Site::kMlpDown};

double mean_change(const HiddenStates& from, const HiddenStates& to) {
  const int64_t tokens = from.sequences().tokens(), width = from.width();
  double sum = 0;
  for (int64_t t = 0; t < tokens; ++t) {
    double change = 0, energy = 0;
    for (int64_t k = t * width; k < (t + 1) * width; ++k) {
      const double a = from.data()[k], d = to.data()[k] - a;
      change += d * d;
      energy += a * a;
    }
    if (energy > 0) sum += change / energy;
  }
  return tokens > 0 ? sum / static_cast<double>(tokens) : 0;
}

// Weights of each scheme.
class SchemeCount {
 public:
  void add(const Scheme& scheme, int64_t weights) {
    auto& entry = count_[scheme.text()];
    entry.first += weights;
    entry.second = scheme;
  }
  Scheme commonest() const {
    const std::pair<int64_t, Scheme>* best = nullptr;
    for (const auto& [text, entry] : count_)
      if (best == nullptr || entry.first > best->first) best = &entry;
    return best != nullptr ? best->second : Scheme{};
  }
  std::string text() const {
    std::string out;
    for (const auto& [scheme, entry] : count_) out += (out.empty() ? "" : "+") + scheme;
    return out;
  }

 private:
  std::map<std::string, std::pair<int64_t, Scheme>> count_;
};

struct Quantized {  // of one block
  std::vector<std::vector<float>> scales;  // by scale group
  std::map<std::string, RoundedWeight> linears;
  std::map<std::string, Tensor> norms;
};

class Lab {
 public:
  Lab(const Checkpoint& source, const Checkpoint* quantized, const DiagnoseInputs& inputs, const DiagnoseOptions& options,
      const ProgressFn& progress)
      : source_(source), quantized_(quantized), inputs_(inputs), options_(options), progress_(progress),
        stats_(inputs.precision == Precision::kBf16, keeps_sample(options.quantize.method)) {
    if (quantized == nullptr) {
      plan_ = plan_quantize(source, options.quantize, inputs.calibration.tokens() + inputs.measured.tokens());
      config_ = std::make_shared<const ModelConfig>(plan_->config);
    } else {
      config_ = std::make_shared<const ModelConfig>(parse_model_config(source.config(), source.path().string()));
      const ModelConfig other = parse_model_config(quantized->config(), quantized->path().string());
      if (other.layers != config_->layers || other.hidden != config_->hidden || other.vocab != config_->vocab || other.model_type != config_->model_type)
        fail(Code::kBadFile, "{}: expected a checkpoint made from {} ({}, {} blocks of width {}, {} tokens), got {}, {} blocks of width {}, {} tokens",
             quantized->path().string(), source.path().string(), config_->model_type, config_->layers, config_->hidden, config_->vocab,
             other.model_type, other.layers, other.hidden, other.vocab);
    }
    const ArchSpec& arch = find_arch(config_->model_type, source.path().string());
    for (int64_t i = 0; i < config_->layers; ++i) specs_.push_back(arch.block(*config_, i));
    if (quantized != nullptr) find_schemes();
  }

  Diagnosis run() {
    const double start = now_seconds();
    const Tensor embedding = load_embedding(source_, *config_);
    dtype_ = plan_ ? choose_dtype(source_, *plan_, options_.quantize, first_sequences(inputs_.calibration, 1)) : DType::kF16;
    if (inputs_.calibration.count() > 0) calibration_.emplace(inputs_.calibration, *config_, embedding);
    states_.emplace_back(inputs_.measured, *config_, embedding);
    changed_.push_back(states_.front());
    for (int64_t i = 0; i < config_->layers; ++i) {
      report("quantize", i, config_->layers);
      one_block(i);
    }
    if (plan_) out_.base = plan_->scheme, out_.scheme_text = plan_->scheme_text();
    out_.seconds_quantize = now_seconds() - start;

    const Tensor norm = load_gain(source_, *config_, kFinalNormName, config_->hidden), table = load_head(source_, *config_, embedding);
    const auto head = pack_linear(table, options_.precision);
    head_ = {norm.f32(), head.get(), config_->rms_eps, config_->final_softcap};
    comparison_.emplace(states_.back(), head_, kKeptLogits);
    measure();
    out_.seconds_measure = now_seconds() - start - out_.seconds_quantize;
    return std::move(out_);
  }

 private:
  void report(const char* stage, int64_t done, int64_t total) const {
    check_cancelled();
    if (progress_) progress_({stage, static_cast<double>(done), static_cast<double>(total), std::string_view(stage) == "quantize" ? "blocks" : "runs"});
  }

  void find_schemes() {
    SchemeCount count;
    for (const BlockSpec& spec : specs_)
      for (const auto& [module, weight] : load_block(*quantized_, *config_, spec, false).weights)
        if (const auto* q = std::get_if<QuantWeight>(&weight)) count.add(q->scheme, q->rows * q->cols);
    out_.base = count.commonest();
    out_.scheme_text = count.text();
    if (out_.scheme_text.empty()) fail(Code::kBadFile, "{}: expected a quantized checkpoint, got one without quantized linears", quantized_->path().string());
  }

  std::unique_ptr<Block> pack(int64_t i, const BlockWeights& weights) const {
    return std::make_unique<Block>(config_, specs_[i], weights, options_.precision);
  }

  // The source's block in the folded form: the same function, up to the rounding of the norms.
  BlockWeights folded(int64_t i) const {
    BlockWeights weights = load_block(source_, *config_, specs_[i], true);
    for (size_t g = 0; g < specs_[i].scale_groups.size(); ++g) apply_scale(specs_[i].scale_groups[g], blocks_[i].scales[g], *config_, weights);
    weights.norms = blocks_[i].norms;
    return weights;
  }

  // Of `folded`, what is quantized is replaced where `pick` says so.
  template <class Pick>
  std::unique_ptr<Block> variant(int64_t i, const BlockWeights& dense, const Pick& pick) const {
    BlockWeights weights = dense;
    for (const auto& [module, q] : blocks_[i].linears)
      if (pick(module)) weights.weights.at(module) = q;
    return pack(i, weights);
  }

  void round(int64_t i, const BlockWeights& dense) {
    Quantized& block = blocks_[i];
    BlockWeights weights = dense.clone();
    if (quantized_ == nullptr) {
      const RoundingContext context{*plan_, options_.quantize, dtype_, inputs_.precision, before_ ? &*before_ : nullptr};
      BlockRounding rounding = round_block(context, i, specs_[i], stats_, weights);
      block.linears = std::move(rounding.quantized);
      for (auto& [name, gain] : weights.norms) gain = gain_of(*config_, stored_gain(*config_, gain).to(dtype_));
    } else {
      BlockWeights stored = load_block(*quantized_, *config_, specs_[i], false);
      for (auto& [module, weight] : stored.weights) {
        weights.weights.at(module) = stored.dense(module);
        if (auto* q = std::get_if<QuantWeight>(&weight)) block.linears.emplace(module, std::move(*q));
      }
      weights.norms = std::move(stored.norms);
    }
    block.scales = recover_scales(specs_[i], *config_, dense, weights, (quantized_ ? *quantized_ : source_).path().string());
    block.norms = std::move(weights.norms);
  }

  void one_block(int64_t i) {
    const BlockWeights dense = load_block(source_, *config_, specs_[i], true);
    blocks_.emplace_back();
    stats_.reset();
    before_.reset();
    if (calibration_ && keeps_inputs(options_.quantize.method)) before_ = calibration_;
    if (calibration_) calibration_->advance(Block(config_, specs_[i], dense, inputs_.precision), scratch_, &stats_);
    round(i, dense);
    const BlockWeights scaled = folded(i);

    source_blocks_.push_back(pack(i, load_block(source_, *config_, specs_[i], false)));
    quantized_blocks_.push_back(variant(i, scaled, [](const std::string&) { return true; }));
    states_.push_back(states_[i]);
    states_.back().advance(*source_blocks_[i], scratch_, nullptr);
    changed_.push_back(changed_[i]);
    changed_.back().advance(*quantized_blocks_[i], scratch_, nullptr);
    HiddenStates alone = states_[i];
    alone.advance(*quantized_blocks_[i], scratch_, nullptr);
    out_.depth.push_back({mean_change(states_.back(), alone), mean_change(states_.back(), changed_.back()), 0, 0});
    for (const Site site : kSites) one_unit(i, site, scaled);
  }

  void one_unit(int64_t i, Site site, const BlockWeights& scaled) {
    UnitDiagnosis u;
    u.unit.block = i;
    u.unit.site = site;
    std::string roles;
    for (const LinearSpec& l : specs_[i].linears) {
      if (l.reads != site || !blocks_[i].linears.contains(l.module)) continue;
      if (u.unit.modules.empty()) u.unit.scheme = blocks_[i].linears.at(l.module).scheme;
      u.unit.modules.push_back(l.module);
      u.unit.weights += l.out * l.in;
      const size_t end = l.role.find("_proj");
      roles += (roles.empty() ? "" : ",") + (u.unit.modules.size() > 1 || end != std::string::npos ? l.role.substr(0, end) : l.role);
    }
    if (u.unit.modules.empty()) return;
    u.unit.name = fmt::format("{} {}", i, roles);
    errors(i, site, scaled, u);
    HiddenStates changed = states_[i];
    changed.advance(*variant(i, scaled, [&](const std::string& module) { return u.unit.has(module); }), scratch_, nullptr);
    u.block_change = mean_change(states_[i + 1], changed);
    u.kl_rest = u.perplexity = u.perplexity_rest = NAN;
    out_.units.push_back(std::move(u));
  }

  // By what the fold divides the channels of a site.
  std::vector<float> scale_of(int64_t i, Site site) const {
    for (size_t g = 0; g < specs_[i].scale_groups.size(); ++g)
      if (specs_[i].scale_groups[g].site == site) return blocks_[i].scales[g];
    return std::vector<float>(static_cast<size_t>(stats_.at(site).dim), 1.0f);
  }

  void errors(int64_t i, Site site, const BlockWeights& scaled, UnitDiagnosis& u) {
    u.candidate_errors.assign(options_.candidates.size(), NAN);
    if (stats_.at(site).tokens == 0) {
      u.relative_error = u.outlier = u.channel_max = NAN;
      for (const std::string& module : u.unit.modules)
        out_.linears.push_back({i, module, module.substr(module.rfind('.') + 1), blocks_[i].linears.at(module).scheme, NAN, NAN});
      return;
    }
    std::vector<float> mean = stats_.at(site).abs_mean();
    u.channel_mean = mean;
    u.channel_scale = scale_of(i, site);
    std::sort(mean.begin(), mean.end());
    u.outlier = mean[mean.size() / 2] > 0 ? mean.back() / mean[mean.size() / 2] : INFINITY;
    u.channel_max = stats_.at(site).abs_max;

    const SiteStats stats = scaled_stats(stats_.at(site), u.channel_scale);
    double energy = 0, error = 0;
    std::vector<double> candidate(options_.candidates.size(), 0.0);
    double searched = 0;  // what searched ranges alone leave under the unit's own scheme
    for (const std::string& module : u.unit.modules) {
      const Tensor& w = std::get<Tensor>(scaled.weights.at(module));
      const QuantWeight& q = blocks_[i].linears.at(module);
      const double all = gram_loss(w.f32(), w.dim(0), w.dim(1), stats.gram.data());
      const double relative = relative_error(w, q, stats);
      energy += all;
      error += relative * all;
      const std::string role = module.substr(module.rfind('.') + 1);
      out_.linears.push_back({i, module, role, q.scheme, relative, NAN});
      if (quantized_ != nullptr && w.dim(1) % out_.base.group_size(w.dim(1)) == 0 && all > 0)
        out_.linears.back().expected_error = loss_under(w, out_.base, stats) / all;
      const bool compares = !options_.candidates.empty() && q.scheme.code == CodeKind::kAffine;
      const double own = compares ? loss_under(w, q.scheme, stats) : 0;
      searched += own;
      for (size_t c = 0; c < options_.candidates.size(); ++c) {
        const Scheme& s = options_.candidates[c];
        const bool divides = w.dim(1) % s.group_size(w.dim(1)) == 0;
        candidate[c] += !divides ? NAN : compares && s == q.scheme ? own : loss_under(w, s, stats);
      }
    }
    u.relative_error = energy > 0 ? error / energy : 0;
    // Compensation takes about the same share off every scheme's error.
    const double share = searched > 0 ? error / searched : 1;
    for (size_t c = 0; c < candidate.size(); ++c) u.candidate_errors[c] = energy > 0 ? share * candidate[c] / energy : 0;
  }

  double loss_under(const Tensor& w, const Scheme& scheme, const SiteStats& stats) const {
    check_cancelled();
    // Of 8 bits no search is worth its time.
    const QuantWeight q = scheme.bits >= 8 ? quantize_minmax(w.f32(), w.dim(0), w.dim(1), scheme, dtype_)
                                           : range_search(w.f32(), w.dim(0), w.dim(1), scheme, dtype_, stats.gram.data(), RangeEffort::kAwqClip);
    Tensor error(DType::kF32, w.shape());
    dequantize(q, error.f32());
    for (int64_t k = 0; k < w.numel(); ++k) error.f32()[k] = w.f32()[k] - error.f32()[k];
    return gram_loss(error.f32(), w.dim(0), w.dim(1), stats.gram.data());
  }

  // From `states` in front of block `from` to the end.
  std::vector<TokenLoss> losses(HiddenStates states, int64_t from, const std::vector<std::unique_ptr<Block>>& rest) {
    for (int64_t i = from; i < config_->layers; ++i) states.advance(*rest[i], scratch_, nullptr);
    return comparison_->losses(states, head_);
  }

  double kl_of(const std::vector<TokenLoss>& losses) const { return summarize(inputs_.measured, losses).kl; }

  void measure() {
    const int64_t exact = std::min(options_.exact, static_cast<int64_t>(out_.units.size()));
    const int64_t runs = 2 * config_->layers + 2 * exact + 1;
    int64_t done = 0;
    report("measure", done, runs);
    measure_total();
    ++done;
    for (int64_t i = 0; i < config_->layers; ++i) {
      report("measure", done, runs);
      DepthDiagnosis& d = out_.depth[i];
      HiddenStates alone = states_[i];
      alone.advance(*quantized_blocks_[i], scratch_, nullptr);
      d.kl_alone = kl_of(losses(std::move(alone), i + 1, source_blocks_));
      d.kl_along = i + 1 == config_->layers ? out_.total.kl : kl_of(losses(changed_[i + 1], i + 1, source_blocks_));
      done += 2;
    }
    for (UnitDiagnosis& u : out_.units) {
      const DepthDiagnosis& d = out_.depth[u.unit.block];
      u.kl = d.change_alone > 0 ? d.kl_alone * u.block_change / d.change_alone : 0;
    }
    std::vector<size_t> order(out_.units.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return out_.units[a].kl > out_.units[b].kl; });
    order.resize(static_cast<size_t>(exact));
    std::sort(order.begin(), order.end());  // the units of a block share its folded weights
    BlockWeights scaled;
    int64_t scaled_block = -1;
    for (const size_t k : order) {
      report("measure", done, runs);
      UnitDiagnosis& u = out_.units[k];
      if (u.unit.block != scaled_block) scaled = folded(scaled_block = u.unit.block);
      measure_unit(scaled, u);
      done += 2;
    }
    report("measure", runs, runs);
  }

  void measure_total() {
    const std::vector<TokenLoss> all = comparison_->losses(changed_.back(), head_);
    out_.total = summarize(inputs_.measured, all);
    size_t at = 0;
    for (int64_t s = 0; s < inputs_.measured.count(); ++s)
      for (int64_t p = 1; p < inputs_.measured.lengths[s]; ++p) out_.tokens.push_back({s, p, all[at++]});
  }

  void measure_unit(const BlockWeights& scaled, UnitDiagnosis& u) {
    const int64_t i = u.unit.block;
    HiddenStates only = states_[i];
    only.advance(*variant(i, scaled, [&](const std::string& module) { return u.unit.has(module); }), scratch_, nullptr);
    const CheckResult alone = summarize(inputs_.measured, losses(std::move(only), i + 1, source_blocks_));
    u.kl = alone.kl;
    u.perplexity = alone.perplexity;
    HiddenStates rest = changed_[i];
    rest.advance(*variant(i, scaled, [&](const std::string& module) { return !u.unit.has(module); }), scratch_, nullptr);
    const CheckResult others = summarize(inputs_.measured, losses(std::move(rest), i + 1, quantized_blocks_));
    u.kl_rest = out_.total.kl - others.kl;
    u.perplexity_rest = others.perplexity;
    u.measured = true;
  }

  const Checkpoint& source_;
  const Checkpoint* quantized_;
  const DiagnoseInputs& inputs_;
  const DiagnoseOptions& options_;
  const ProgressFn& progress_;
  std::optional<QuantizePlan> plan_;
  std::shared_ptr<const ModelConfig> config_;
  std::vector<BlockSpec> specs_;
  DType dtype_ = DType::kF16;
  StatsObserver stats_;
  Scratch scratch_;
  std::optional<HiddenStates> calibration_, before_;
  std::vector<Quantized> blocks_;
  std::vector<std::unique_ptr<Block>> source_blocks_, quantized_blocks_;
  std::vector<HiddenStates> states_, changed_;  // before each block and after the last: of the source; all quantized
  OutputHead head_;
  std::optional<OutputComparison> comparison_;
  Diagnosis out_;
};

}  // namespace

Diagnosis diagnose(const Checkpoint& source, const Checkpoint* quantized, const DiagnoseInputs& inputs, const DiagnoseOptions& options,
                   const ProgressFn& progress) {
  if (inputs.measured.tokens() < 2) fail(Code::kBadArgument, "nothing to measure on: expected text of at least 2 tokens, got {}", inputs.measured.tokens());
  return Lab(source, quantized, inputs, options, progress).run();
}

int64_t diagnosis_bytes(const QuantizePlan& plan, const TokenSequences& measured) {
  const int64_t tokens = measured.tokens(), states = 2 * (plan.config.layers + 1) * tokens * plan.config.hidden * static_cast<int64_t>(sizeof(float));
  const int64_t logits = std::min(kKeptLogits, tokens * plan.config.vocab * static_cast<int64_t>(sizeof(float)));
  return plan.source_bytes + plan.weight_bytes + plan.quantized_weights + states + logits + plan.memory_bytes;
}

double candidate_kl(const UnitDiagnosis& unit, size_t candidate) {
  return unit.relative_error > 0 ? unit.kl * unit.candidate_errors[candidate] / unit.relative_error : 0;
}

}  // namespace awq
