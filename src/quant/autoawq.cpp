// AutoAWQ's search as AutoAWQ does it (0.2.9, awq/quantize/quantizer.py): 20 exponents per scale group, each judged by running
// the module that contains the group - the attention for q, k and v, the MLP for gate and up - over all calibration tokens with
// the weights rounded, then a clip of each group of weights on 512 tokens, q and k excepted. For a linear that is its own
// module (o, down) the replay's error is exactly the Gram loss, which is used instead. Two differences are kept: ranges contain
// 0, where AutoAWQ's rounding loses the end of groups of one sign; where a norm stands behind the module (gemma), errors are those
// behind it.
#include <cmath>

#include "kernels/quant_ops.h"
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
  for (int64_t i = 0; i < w.numel(); ++i) error.f32()[i] = w.f32()[i] - std::as_const(error).f32()[i];
  return error;
}

// A shallow copy whose tensors in `with` are replaced.
BlockWeights replaced(const BlockWeights& block, std::map<std::string, Tensor> with) {
  BlockWeights out = block;
  for (auto& [module, tensor] : with) out.weights.at(module) = std::move(tensor);
  return out;
}

class Replay {
 public:
  Replay(const RoundingContext& context, const BlockSpec& spec, const BlockWeights& block, const ScaleGroup& group)
      : context_(context), spec_(spec), config_(std::make_shared<const ModelConfig>(context.plan.config)) {
    // Without the MLP's output the block's output moves as the attention's does.
    std::map<std::string, Tensor> silenced;
    if (group.site == Site::kAttentionIn)
      for (const LinearSpec& l : spec.linears)
        if (l.reads == Site::kMlpDown) silenced.emplace(l.module, Tensor::zeros(DType::kF32, {l.out, l.in}));
    base_ = replaced(block, std::move(silenced));
    for (auto& [module, bias] : base_.biases)
      if (group.site == Site::kAttentionIn && spec.linears.back().module == module) bias = Tensor::zeros(DType::kF32, bias.shape());
    reference_.emplace(*context.inputs);
    reference_->advance(Block(config_, spec, base_, context.precision), scratch_, nullptr);
  }

  double error(std::map<std::string, Tensor> weights) {
    HiddenStates states = *context_.inputs;
    states.advance(Block(config_, spec_, replaced(base_, std::move(weights)), context_.precision), scratch_, nullptr);
    double sum = 0;
    const auto a = states.values(), b = reference_->values();
    for (size_t i = 0; i < a.size(); ++i) sum += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
    return sum;
  }

 private:
  const RoundingContext& context_;
  const BlockSpec& spec_;
  std::shared_ptr<const ModelConfig> config_;
  BlockWeights base_;
  std::optional<HiddenStates> reference_;
  Scratch scratch_;
};

struct Choice {
  const ScaleGroup* group;
  std::vector<float> scale;
  double ratio = 0;
};

Choice search(const RoundingContext& context, int64_t layer, const BlockSpec& spec, const ScaleGroup& group, const SiteStats& stats,
              const BlockWeights& block) {
  const auto linears = linears_of(context, layer, group, block);
  const std::vector<float> x_mean = stats.abs_mean(), w_mean = awq_weight_mean(linears, context.plan.scheme.group_size(stats.dim));
  std::optional<Replay> replay;
  if (linears.size() > 1 && context.inputs != nullptr) replay.emplace(context, spec, block, group);
  Choice best{&group, {}, 0};
  double least = INFINITY;
  for (int i = 0; i < kSteps; ++i) {
    check_cancelled();
    const double ratio = static_cast<double>(i) / kSteps;
    const std::vector<float> s = awq_scale(x_mean, w_mean, ratio);
    std::map<std::string, Tensor> candidate;
    for (const GroupLinear& l : linears)
      if (l.quantized) candidate.emplace(l.module, rounded(l.weight, s, context));
    double error = 0;
    if (replay) {
      error = replay->error(std::move(candidate));
    } else {
      for (const GroupLinear& l : linears) {
        if (!l.quantized) continue;
        Tensor& e = candidate.at(l.module);
        for (int64_t k = 0; k < e.numel(); ++k) e.f32()[k] -= l.weight.f32()[k];
        error += gram_loss(e.f32(), e.dim(0), e.dim(1), stats.gram.data());
      }
    }
    if (error < least) least = error, best.scale = s, best.ratio = ratio;
  }
  return best;
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
