#include "eval/perplexity.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>

#include "base/error.h"
#include "eval/quantile.h"
#include "quant/check.h"

namespace awq {
namespace {

constexpr int64_t kLogitFloats = int64_t{16} << 20;  // 64 MiB of logits at a time
constexpr int64_t kLogitRows = 256;

// One model's way through a window: the states of all its tokens, then logits a few rows at a time.
class Side {
 public:
  Side(const Model& model, int64_t length, std::optional<DType> kv_dtype) : model_(model) {
    if (!kv_dtype) return;
    pages_.resize(static_cast<size_t>((length + kPageTokens - 1) / kPageTokens));
    std::iota(pages_.begin(), pages_.end(), 0);
    cache_ = std::make_unique<KvCache>(model, static_cast<int64_t>(pages_.size()), *kv_dtype);
  }

  void run(std::span<const int32_t> tokens, std::span<const int32_t> positions) {
    const SpanView whole{0, static_cast<int64_t>(tokens.size()), 0, cache_ ? pages_.data() : nullptr};
    model_.forward({tokens, positions, {&whole, 1}}, cache_.get(), scratch_, hidden_);
  }

  // [rows, vocab]
  const float* logits(int64_t row, int64_t rows) {
    const size_t size = static_cast<size_t>(rows * model_.config().vocab);
    if (logits_.size() < size) logits_.resize(size);
    model_.logits(hidden_.data() + row * model_.config().hidden, rows, logits_.data());
    return logits_.data();
  }

 private:
  const Model& model_;
  std::vector<int32_t> pages_;
  std::unique_ptr<KvCache> cache_;  // null: keys and values as they are
  Scratch scratch_;
  std::vector<float> hidden_, logits_;
};

// One entry per window, the units of the intervals.
struct Sums {
  std::vector<double> nll, reference_nll, kl, same;
  std::vector<int64_t> targets;
  std::vector<double> kl_of_target;
};

class Walk {
 public:
  Walk(std::span<const Model* const> models, const Model* reference, const WindowSpec& spec, std::optional<DType> kv_dtype)
      : spec_(spec),
        vocab_(models.front()->config().vocab),
        chunk_(std::clamp<int64_t>(kLogitFloats / vocab_, 1, kLogitRows)),
        sums_(models.size()),
        positions_(static_cast<size_t>(spec.length)),
        logprob_(static_cast<size_t>(chunk_)),
        kl_(static_cast<size_t>(chunk_)),
        same_(static_cast<size_t>(chunk_)) {
    std::iota(positions_.begin(), positions_.end(), 0);
    for (const Model* model : models) models_.emplace_back(*model, spec.length, kv_dtype);
    if (reference != nullptr) reference_.emplace(*reference, spec.length, std::nullopt);
  }

  void window(std::span<const int32_t> tokens) {
    tokens_.assign(tokens.begin(), tokens.end());
    if (spec_.first_token) tokens_.front() = *spec_.first_token;
    for (Side& model : models_) model.run(tokens_, positions_);
    if (reference_) reference_->run(tokens_, positions_);
    struct Totals {
      double nll = 0, kl = 0, same = 0;
    };
    std::vector<Totals> totals(models_.size());
    double reference_nll = 0;
    for (int64_t row = spec_.unscored; row + 1 < spec_.length; row += chunk_) {
      const int64_t rows = std::min(chunk_, spec_.length - 1 - row);
      const float* p = reference_ ? reference_->logits(row, rows) : nullptr;
      if (p != nullptr) reference_nll += negative_log_likelihood(p, row, rows);
      for (size_t m = 0; m < models_.size(); ++m) {
        const float* q = models_[m].logits(row, rows);
        totals[m].nll += negative_log_likelihood(q, row, rows);
        if (p == nullptr) continue;
        kl_divergence(p, q, rows, vocab_, kl_.data(), same_.data());
        totals[m].kl = std::accumulate(kl_.begin(), kl_.begin() + rows, totals[m].kl);
        totals[m].same = std::accumulate(same_.begin(), same_.begin() + rows, totals[m].same);
        sums_[m].kl_of_target.insert(sums_[m].kl_of_target.end(), kl_.begin(), kl_.begin() + rows);
      }
    }
    for (size_t m = 0; m < models_.size(); ++m) {
      sums_[m].nll.push_back(totals[m].nll);
      sums_[m].reference_nll.push_back(reference_nll);
      sums_[m].kl.push_back(totals[m].kl);
      sums_[m].same.push_back(totals[m].same);
      sums_[m].targets.push_back(spec_.length - 1 - spec_.unscored);
    }
  }

  Sums& sums(size_t model) { return sums_[model]; }

 private:
  double negative_log_likelihood(const float* logits, int64_t row, int64_t rows) {
    log_softmax_gather(logits, rows, vocab_, tokens_.data() + row + 1, logprob_.data());
    const double sum = std::accumulate(logprob_.begin(), logprob_.begin() + rows, 0.0);
    if (!std::isfinite(sum))
      fail(Code::kBadFile, "window {}, tokens {} to {}: expected a finite log-likelihood, got {}",
           sums_.front().targets.size(), row + 1, row + rows, sum);
    return -sum;
  }

  const WindowSpec spec_;
  const int64_t vocab_, chunk_;  // chunk_: rows of logits at a time
  std::vector<Side> models_;
  std::optional<Side> reference_;
  std::vector<Sums> sums_;  // of each model
  std::vector<int32_t> positions_, tokens_;
  std::vector<double> logprob_, kl_;
  std::vector<uint8_t> same_;
};

Divergence summarize(Sums& sums) {
  Divergence d;
  const MeanInterval kl = mean_interval(sums.kl, sums.targets), same = mean_interval(sums.same, sums.targets);
  d.kl = kl.mean;
  d.kl_ci95 = kl.ci95;
  d.kl_median = quantile(sums.kl_of_target, 0.5);
  d.kl_p99 = quantile(sums.kl_of_target, 0.99);
  d.kl_max = quantile(sums.kl_of_target, 1);
  d.top1_agreement = same.mean;
  d.top1_agreement_ci95 = same.ci95;
  d.reference_perplexity = std::exp(mean_interval(sums.reference_nll, sums.targets).mean);
  std::vector<double> rise;
  for (size_t w = 0; w < sums.nll.size(); ++w) rise.push_back(sums.nll[w] - sums.reference_nll[w]);
  const MeanInterval ratio = mean_interval(rise, sums.targets);
  d.perplexity_ratio_ci95 = std::exp(ratio.mean) * ratio.ci95;
  for (size_t w = 0; w < sums.kl.size(); ++w)
    d.window_kl.push_back(sums.kl[w] / static_cast<double>(sums.targets[w]));
  return d;
}

void check_arguments(const Model& model, const Model* reference, std::span<const int32_t> tokens,
                     const WindowSpec& spec) {
  if (spec.length < 2 || spec.unscored < 0 || spec.unscored > spec.length - 2)
    fail(Code::kBadArgument, "windows of {} tokens with {} unscored leave no target", spec.length,
         spec.unscored);
  if (static_cast<int64_t>(tokens.size()) < spec.length)
    fail(Code::kBadArgument, "the text has {} tokens: expected at least {}, one window", tokens.size(),
         spec.length);
  const int64_t vocab = model.config().vocab;
  if (reference != nullptr && reference->config().vocab != vocab)
    fail(Code::kBadArgument, "the model's vocabulary has {} tokens, the reference's {}: expected the same",
         vocab, reference->config().vocab);
}

}  // namespace

std::vector<Evaluation> evaluate_all(std::span<const Model* const> models, const Model* reference,
                                     std::span<const int32_t> tokens, const WindowSpec& spec, int64_t limit,
                                     const ProgressFn& progress, std::optional<DType> kv_dtype) {
  for (const Model* model : models) check_arguments(*model, reference, tokens, spec);
  int64_t windows = static_cast<int64_t>(tokens.size()) / spec.length;
  if (limit > 0) windows = std::min(windows, limit);
  Walk walk(models, reference, spec, kv_dtype);
  for (int64_t w = 0; w < windows; ++w) {
    check_cancelled();
    walk.window(tokens.subspan(static_cast<size_t>(w * spec.length), static_cast<size_t>(spec.length)));
    if (progress)
      progress({"evaluate", static_cast<double>((w + 1) * spec.length),
                static_cast<double>(windows * spec.length), "tokens"});
  }
  std::vector<Evaluation> results;
  for (size_t m = 0; m < models.size(); ++m) {
    Sums& sums = walk.sums(m);
    const MeanInterval nll = mean_interval(sums.nll, sums.targets);
    const double perplexity = std::exp(nll.mean);
    Evaluation result{windows, 0, nll.mean, nll.ci95, perplexity, perplexity * nll.ci95, std::nullopt};
    result.targets = std::accumulate(sums.targets.begin(), sums.targets.end(), int64_t{0});
    if (reference != nullptr) result.divergence = summarize(sums);
    results.push_back(std::move(result));
  }
  return results;
}

Evaluation evaluate(const Model& model, const Model* reference, std::span<const int32_t> tokens,
                    const WindowSpec& spec, int64_t limit, const ProgressFn& progress, std::optional<DType> kv_dtype) {
  const Model* one = &model;
  return evaluate_all({&one, 1}, reference, tokens, spec, limit, progress, kv_dtype).front();
}

}  // namespace awq
