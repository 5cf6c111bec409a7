// AutoAWQ's search as AutoAWQ does it (0.2.9, awq/quantize/quantizer.py): 20 exponents per scale group, each judged by running
// the module that contains the group - the attention for q, k and v, the MLP for gate and up - over the calibration tokens with
// the weights rounded, then a clip of each group of weights on 512 tokens, q and k excepted. For a linear that is its own
// module (o, down) the replay's error is exactly the Gram loss, which is used instead. Three differences are kept: ranges contain
// 0, where AutoAWQ's rounding loses the end of groups of one sign; where a norm stands behind the module (gemma), errors are those
// behind it; and an exponent that is worse beyond doubt on a part of the sequences is not run over the others (a race: Maron and
// Moore 1994, with paired differences as in F-Race, Birattari et al. 2002).
#include <cmath>
#include <numeric>

#include "base/thread_pool.h"
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

struct Entrant {
  double ratio = 0;
  std::vector<float> scale;
  std::vector<double> errors;  // of each sequence so far, or of all tokens together

  double error() const { return std::accumulate(errors.begin(), errors.end(), 0.0); }
};

std::vector<Entrant> entrants(const std::vector<float>& x_mean, const std::vector<float>& w_mean) {
  std::vector<Entrant> out;
  for (int i = 0; i < kSteps; ++i) {
    const double ratio = static_cast<double>(i) / kSteps;
    out.push_back({ratio, awq_scale(x_mean, w_mean, ratio), {}});
  }
  return out;
}

// The first of the least errors; one that is not finite never wins.
const Entrant& least(const std::vector<Entrant>& field) {
  const Entrant* best = &field.front();
  for (const Entrant& e : field)
    if (e.error() < best->error() || !std::isfinite(best->error())) best = &e;
  return *best;
}

// By how many of its standard errors the mean of a - b is above 0.
double doubtless(const std::vector<double>& a, const std::vector<double>& b) {
  const auto n = static_cast<double>(a.size());
  double sum = 0, squares = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] - b[i], squares += (a[i] - b[i]) * (a[i] - b[i]);
  const double mean = sum / n, variance = (squares - n * mean * mean) / (n - 1);
  if (!std::isfinite(mean)) return std::isfinite(b.front()) ? INFINITY : 0;
  return variance > 0 ? mean / std::sqrt(variance / n) : 0;
}

// Drops those whose sequences so far are worse than the best one's by more than kDoubt standard errors of the difference.
void drop_the_worse(std::vector<Entrant>& field) {
  constexpr double kDoubt = 3;
  const std::vector<double> best = least(field).errors;
  std::erase_if(field, [&](const Entrant& e) { return doubtless(e.errors, best) > kDoubt; });
}

std::map<std::string, Tensor> candidate(const RoundingContext& context, const std::vector<GroupLinear>& linears, const std::vector<float>& s) {
  check_cancelled();
  std::map<std::string, Tensor> out;
  for (const GroupLinear& l : linears)
    if (l.quantized) out.emplace(l.module, rounded(l.weight, s, context));
  return out;
}

void race(const RoundingContext& context, const std::vector<GroupLinear>& linears, Replay& replay, std::vector<Entrant>& field) {
  while (replay.more()) {
    replay.next();
    for (Entrant& e : field) {
      const std::vector<double> errors = replay.errors(candidate(context, linears, e.scale));
      e.errors.insert(e.errors.end(), errors.begin(), errors.end());
    }
    if (replay.more()) drop_the_worse(field);
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
  std::vector<Entrant> field = entrants(stats.abs_mean(), awq_weight_mean(linears, context.plan.scheme.group_size(stats.dim)));
  if (linears.size() > 1 && context.inputs != nullptr) {
    Replay replay(context, spec, block, group);
    race(context, linears, replay, field);
  } else {
    for (Entrant& e : field) e.errors = {gram_error(context, linears, stats, e.scale)};
  }
  const Entrant& best = least(field);
  return {&group, best.scale, best.ratio};
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
