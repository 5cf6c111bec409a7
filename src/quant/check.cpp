#include "quant/check.h"

#include <cmath>

namespace awq {
namespace {

constexpr int64_t kRows = 256;  // logits held at a time: two blocks of kRows x vocab floats

void run_head(const OutputHead& head, const float* hidden, int64_t rows, int64_t width, std::vector<float>& normed, float* logits) {
  normed.resize(static_cast<size_t>(kRows * width));
  rms_norm(hidden, head.norm, 0, head.rms_eps, rows, width, normed.data());
  head.head->run(normed.data(), rows, logits, head.head->out());
  if (head.softcap > 0) softcap(logits, head.softcap, rows * head.head->out());
}

}  // namespace

MeanInterval mean_interval(const std::vector<double>& sums, const std::vector<int64_t>& counts) {
  double sum = 0;
  int64_t n = 0;
  for (size_t i = 0; i < sums.size(); ++i) sum += sums[i], n += counts[i];
  MeanInterval out;
  if (n == 0) return out;
  out.mean = sum / static_cast<double>(n);
  // Ratio estimator: sequences are the independent units, weighted by their tokens.
  double square = 0;
  int64_t used = 0;
  for (size_t i = 0; i < sums.size(); ++i) {
    if (counts[i] == 0) continue;
    const double d = sums[i] - out.mean * static_cast<double>(counts[i]);
    square += d * d;
    ++used;
  }
  if (used > 1) out.ci95 = 1.96 * std::sqrt(square * static_cast<double>(used) / static_cast<double>(used - 1)) / static_cast<double>(n);
  return out;
}

OutputComparison::OutputComparison(const HiddenStates& source, const OutputHead& head, int64_t keep_bytes) : source_(source), head_(head) {
  const int64_t tokens = source.sequences().tokens(), vocab = head.head->out();
  const bool keep = tokens * vocab * static_cast<int64_t>(sizeof(float)) <= keep_bytes;
  logits_.resize(static_cast<size_t>((keep ? tokens : kRows) * vocab));
  if (keep) kept_.resize(static_cast<size_t>(tokens), false);
}

// Rows are asked for in the same blocks every time.
const float* OutputComparison::source_logits(int64_t first, int64_t rows) {
  const int64_t width = source_.width();
  float* at = logits_.data() + (kept_.empty() ? 0 : first * head_.head->out());
  if (!kept_.empty() && kept_[static_cast<size_t>(first)]) return at;
  run_head(head_, source_.data() + first * width, rows, width, normed_, at);
  if (!kept_.empty()) kept_[static_cast<size_t>(first)] = true;
  return at;
}

std::vector<TokenLoss> OutputComparison::losses(const HiddenStates& result, const OutputHead& head, const ProgressFn& progress) {
  const TokenSequences& sequences = source_.sequences();
  const int64_t width = source_.width(), vocab = head_.head->out();
  std::vector<float> normed, logits(static_cast<size_t>(kRows * vocab));
  std::vector<double> kl(kRows), logprob(kRows), source_logprob(kRows);
  std::vector<uint8_t> same(kRows);
  std::vector<TokenLoss> out;
  out.reserve(static_cast<size_t>(sequences.tokens()));
  int64_t start = 0;
  for (const int64_t length : sequences.lengths) {
    for (int64_t at = 0; at + 1 < length; at += kRows) {
      check_cancelled();
      const int64_t rows = std::min(kRows, length - 1 - at);
      const float* p = source_logits(start + at, rows);
      run_head(head, result.data() + (start + at) * width, rows, width, normed, logits.data());
      const int32_t* target = sequences.ids.data() + start + at + 1;
      log_softmax_gather(p, rows, vocab, target, source_logprob.data());
      log_softmax_gather(logits.data(), rows, vocab, target, logprob.data());
      kl_divergence(p, logits.data(), rows, vocab, kl.data(), same.data());
      for (int64_t r = 0; r < rows; ++r) out.push_back({kl[r], -source_logprob[r], -logprob[r], same[r] != 0});
    }
    start += length;
    if (progress) progress({"check", static_cast<double>(start), static_cast<double>(sequences.tokens()), "tokens"});
  }
  return out;
}

namespace {

// Sums over sequences of the losses' divergences, with the number of targets of each.
struct SequenceSums {
  std::vector<double> kl;
  std::vector<int64_t> targets;
};
SequenceSums sequence_sums(const TokenSequences& sequences, const std::vector<TokenLoss>& losses) {
  SequenceSums out;
  size_t at = 0;
  for (const int64_t length : sequences.lengths) {
    const int64_t targets = std::max<int64_t>(0, length - 1);
    double kl = 0;
    for (int64_t i = 0; i < targets; ++i) kl += losses[at++].kl;
    out.kl.push_back(kl);
    out.targets.push_back(targets);
  }
  return out;
}

}  // namespace

CheckResult summarize(const TokenSequences& sequences, const std::vector<TokenLoss>& losses) {
  const SequenceSums sums = sequence_sums(sequences, losses);
  double nll_source = 0, nll = 0, agree = 0;
  for (const TokenLoss& t : losses) nll_source += t.nll_source, nll += t.nll, agree += t.same_top;
  CheckResult out;
  out.tokens = static_cast<int64_t>(losses.size());
  const double n = static_cast<double>(std::max<int64_t>(out.tokens, 1));
  const MeanInterval interval = mean_interval(sums.kl, sums.targets);
  out.kl = interval.mean;
  out.kl_ci95 = interval.ci95;
  out.top1_agreement = agree / n;
  out.perplexity_source = std::exp(nll_source / n);
  out.perplexity = std::exp(nll / n);
  return out;
}

CheckResult compare_outputs(const HiddenStates& source, const OutputHead& source_head, const HiddenStates& result,
                            const OutputHead& result_head, const ProgressFn& progress) {
  return summarize(source.sequences(), OutputComparison(source, source_head).losses(result, result_head, progress));
}

}  // namespace awq
