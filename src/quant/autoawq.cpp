// AutoAWQ's search as AutoAWQ does it (0.2.9, awq/quantize/quantizer.py): 20 exponents per scale group, each judged by running
// the module that contains the group - the attention for q, k and v, the MLP for gate and up - over the calibration tokens with
// the weights rounded, then a clip of each group of weights on 512 tokens, q and k excepted. For a linear that is its own
// module (o, down) the replay's error is exactly the Gram loss, which is used instead. Three differences are kept: ranges contain
// 0, where AutoAWQ's rounding loses the end of groups of one sign; where a norm stands behind the module (gemma), errors are those
// behind it; and an exponent that is worse beyond doubt on a part of the sequences is not run over the others (quant/race.h).
#include <cmath>

#include "base/thread_pool.h"
#include "kernels/quant_ops.h"
#include "quant/race.h"
#include "quant/rounders.h"

namespace awq {
namespace {

constexpr int kSteps = 20;  // exponents 0, 0.05, ... 0.95

std::vector<GroupLinear> linears_of(const RoundingContext& context, int64_t layer, const ScaleGroup& group, const BlockWeights& block) {
  std::vector<GroupLinear> out;
  for (const std::string& module : group.consumers)
    out.push_back({module, std::get<Tensor>(block.weights.at(module)), context.plan.linear(layer, module).quantized});
  return out;
}

// W' = Q(W s) / s, what a linear computes on inputs that are not scaled.
Tensor rounded(const Tensor& w, const std::vector<float>& s, const RoundingContext& context) {
  Tensor error(DType::kF32, w.shape());
  minmax_error(w.f32(), w.dim(0), w.dim(1), context.plan.scheme, context.dtype, s.data(), error.f32());
  float* out = error.f32();
  const float* from = w.f32();
  parallel_chunks(w.numel(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) out[i] = from[i] - out[i];
  });
  return error;
}

// A shallow copy whose tensors in `with` are replaced.
BlockWeights replaced(const BlockWeights& block, std::map<std::string, Tensor> with) {
  BlockWeights out = block;
  for (auto& [module, tensor] : with) out.weights.at(module) = std::move(tensor);
  return out;
}

// The sequences in parts that double what was seen: 8, 8, 16, 32, ... Runs the half of the block that contains a group.
class Replay {
 public:
  Replay(const RoundingContext& context, const BlockSpec& spec, const BlockWeights& block, const ScaleGroup& group)
      : context_(context), spec_(spec), block_(block), config_(std::make_shared<const ModelConfig>(context.plan.config)),
        half_(group.site == Site::kAttentionIn ? BlockHalf::kAttention : BlockHalf::kMlp), original_(config_, spec, block, context.precision),
        order_(spread_order(context.inputs->sequences().count())) {}

  bool more() const { return seen_ < order_.size(); }

  // Takes the next sequences; errors() are of these from then on.
  void next() {
    const size_t count = seen_ == 0 ? std::min(kFirstSequences, order_.size()) : std::min(seen_, order_.size() - seen_);
    const std::span<const int64_t> which(order_.data() + seen_, count);
    seen_ += count;
    sequences_ = select_sequences(context_.inputs->sequences(), which);
    inputs_ = context_.inputs->select(sequences_, which);
    if (half_ == BlockHalf::kMlp) inputs_->advance(original_, scratch_, nullptr, BlockHalf::kAttention);
    reference_ = inputs_;
    reference_->advance(original_, scratch_, nullptr, half_);
  }

  // Squared error of the half's output on each sequence with `weights` in place of the block's own.
  std::vector<double> errors(std::map<std::string, Tensor> weights) {
    HiddenStates states = *inputs_;
    states.advance(Block(config_, spec_, replaced(block_, std::move(weights)), context_.precision), scratch_, nullptr, half_);
    std::vector<int64_t> begin = {0};
    for (const int64_t length : sequences_.lengths) begin.push_back(begin.back() + length * states.width());
    std::vector<double> out(sequences_.lengths.size());
    const float *a = states.data(), *b = reference_->data();
    parallel_for(sequences_.count(), [&](int64_t s) {
      const auto at = static_cast<size_t>(s);
      for (int64_t i = begin[at]; i < begin[at + 1]; ++i) out[at] += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
    });
    return out;
  }

 private:
  static constexpr size_t kFirstSequences = 8;

  const RoundingContext& context_;
  const BlockSpec& spec_;
  const BlockWeights& block_;
  std::shared_ptr<const ModelConfig> config_;
  BlockHalf half_;
  Block original_;
  std::vector<int64_t> order_;
  size_t seen_ = 0;
  TokenSequences sequences_;
  std::optional<HiddenStates> inputs_, reference_;
  Scratch scratch_;
};

struct Choice {
  const ScaleGroup* group;
  std::vector<float> scale;
  double ratio = 0;
};

// The exponents still in the race, and their errors: of each sequence so far, or of all tokens together.
struct Field {
  std::vector<double> ratios;
  std::vector<std::vector<float>> scales;
  std::vector<std::vector<double>> errors;

  size_t size() const { return ratios.size(); }
  void drop_the_worse() {
    const std::vector<bool> worse = worse_beyond_doubt(errors);
    Field kept;
    for (size_t i = 0; i < size(); ++i) {
      if (worse[i]) continue;
      kept.ratios.push_back(ratios[i]);
      kept.scales.push_back(std::move(scales[i]));
      kept.errors.push_back(std::move(errors[i]));
    }
    *this = std::move(kept);
  }
};

Field all_exponents(const std::vector<float>& x_mean, const std::vector<float>& w_mean) {
  Field out;
  for (int i = 0; i < kSteps; ++i) {
    out.ratios.push_back(static_cast<double>(i) / kSteps);
    out.scales.push_back(awq_scale(x_mean, w_mean, out.ratios.back()));
    out.errors.emplace_back();
  }
  return out;
}

std::map<std::string, Tensor> candidate(const RoundingContext& context, const std::vector<GroupLinear>& linears, const std::vector<float>& s) {
  check_cancelled();
  std::map<std::string, Tensor> out;
  for (const GroupLinear& l : linears)
    if (l.quantized) out.emplace(l.module, rounded(l.weight, s, context));
  return out;
}

void race(const RoundingContext& context, const std::vector<GroupLinear>& linears, Replay& replay, Field& field) {
  while (replay.more()) {
    replay.next();
    for (size_t i = 0; i < field.size(); ++i) {
      const std::vector<double> errors = replay.errors(candidate(context, linears, field.scales[i]));
      field.errors[i].insert(field.errors[i].end(), errors.begin(), errors.end());
    }
    if (replay.more()) field.drop_the_worse();
  }
}

double gram_error(const RoundingContext& context, const std::vector<GroupLinear>& linears, const SiteStats& stats, const std::vector<float>& s) {
  double error = 0;
  std::map<std::string, Tensor> weights = candidate(context, linears, s);
  for (const GroupLinear& l : linears) {
    if (!l.quantized) continue;
    Tensor& e = weights.at(l.module);
    float* difference = e.f32();
    const float* w = l.weight.f32();
    for (int64_t k = 0; k < e.numel(); ++k) difference[k] -= w[k];
    error += gram_loss(difference, e.dim(0), e.dim(1), stats.gram.data());
  }
  return error;
}

Choice search(const RoundingContext& context, int64_t layer, const BlockSpec& spec, const ScaleGroup& group, const SiteStats& stats,
              const BlockWeights& block) {
  const auto linears = linears_of(context, layer, group, block);
  Field field = all_exponents(stats.abs_mean(), awq_weight_mean(linears, context.plan.scheme.group_size(stats.dim)));
  if (linears.size() > 1 && context.inputs != nullptr) {
    Replay replay(context, spec, block, group);
    race(context, linears, replay, field);
  } else {
    for (size_t i = 0; i < field.size(); ++i) field.errors[i] = {gram_error(context, linears, stats, field.scales[i])};
  }
  const size_t best = least_sum(field.errors);
  return {&group, field.scales[best], field.ratios[best]};
}

// AutoAWQ scales o_proj only where every query head has its own values.
bool scales(const ScaleGroup& group, const ModelConfig& config) { return group.fold != Fold::kKvHeads || config.heads == config.kv_heads; }

std::vector<float> sample_gram(const SiteStats& stats) {
  std::vector<float> g(static_cast<size_t>(stats.dim * stats.dim), 0.0f);
  gram_accumulate(stats.sample.data(), stats.dim, stats.sample_tokens, stats.dim, g.data(), false);
  return g;
}

}  // namespace

BlockRounding round_autoawq(const RoundingContext& context, int64_t layer, const BlockSpec& spec, const StatsObserver& stats,
                            BlockWeights& block) {
  std::vector<Choice> choices;
  for (const ScaleGroup& group : spec.scale_groups)
    if (scales(group, context.plan.config) && any_quantized(context, layer, group) && stats.at(group.site).tokens > 0)
      choices.push_back(search(context, layer, spec, group, stats.at(group.site), block));
  for (const Choice& c : choices) apply_scale(*c.group, c.scale, context.plan.config, block);

  BlockRounding out;
  std::map<Site, std::vector<float>> grams;
  for (const PlannedLinear& l : context.plan.blocks[layer]) {
    if (!l.quantized) continue;
    check_cancelled();
    const Choice* choice = nullptr;
    for (const Choice& c : choices)
      if (c.group->site == l.spec.reads) choice = &c;
    SiteStats site = stats.at(l.spec.reads);
    if (choice != nullptr) {
      site = scaled_stats(site, choice->scale);
      for (size_t i = 0; i < site.sample.size(); ++i) site.sample[i] /= choice->scale[i % static_cast<size_t>(site.dim)];
    }
    const Tensor& w = std::get<Tensor>(block.weights.at(l.spec.module));
    const bool clip = l.spec.role != "q_proj" && l.spec.role != "k_proj" && site.sample_tokens > 0;
    if (clip && !grams.contains(l.spec.reads)) grams.emplace(l.spec.reads, sample_gram(site));
    QuantWeight q = clip ? range_search(w.f32(), w.dim(0), w.dim(1), context.plan.scheme, context.dtype, grams.at(l.spec.reads).data(),
                                        RangeEffort::kAwqClip)
                         : quantize_minmax(w.f32(), w.dim(0), w.dim(1), context.plan.scheme, context.dtype);
    out.reports.push_back({layer, l.spec.module, relative_error(w, q, site), 0, 0,
                           (choice != nullptr ? fmt::format("exponent {:.2f}", choice->ratio) : std::string("not scaled")) + (clip ? ", clipped" : "")});
    out.quantized.emplace(l.spec.module, std::move(q));
  }
  return out;
}

}  // namespace awq
