#include "quant/check.h"

#include <cmath>

namespace awq {
namespace {

constexpr int64_t kRows = 256;  // logits held at a time: two blocks of kRows x vocab floats

struct Side {
  const OutputHead& head;
  std::vector<float> normed, logits;

  const float* run(const float* hidden, int64_t rows, int64_t width) {
    normed.resize(static_cast<size_t>(kRows * width));
    logits.resize(static_cast<size_t>(kRows * head.head->out()));
    rms_norm(hidden, head.norm, 0, head.rms_eps, rows, width, normed.data());
    head.head->run(normed.data(), rows, logits.data(), head.head->out());
    return logits.data();
  }
};

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

CheckResult compare_outputs(const HiddenStates& source, const OutputHead& source_head, const HiddenStates& result,
                            const OutputHead& result_head, const ProgressFn& progress) {
  const TokenSequences& sequences = source.sequences();
  const int64_t width = source.width(), vocab = source_head.head->out();
  Side a{source_head, {}, {}}, b{result_head, {}, {}};
  std::vector<double> kl(kRows), logprob(kRows), kl_sums;
  std::vector<uint8_t> same(kRows);
  std::vector<int64_t> counts;
  double nll_a = 0, nll_b = 0, agree = 0;
  CheckResult out;
  int64_t start = 0;
  for (const int64_t length : sequences.lengths) {
    double kl_sum = 0;
    for (int64_t at = 0; at + 1 < length; at += kRows) {
      check_cancelled();
      const int64_t rows = std::min(kRows, length - 1 - at);
      const float* p = a.run(source.data() + (start + at) * width, rows, width);
      const float* q = b.run(result.data() + (start + at) * width, rows, width);
      const int32_t* target = sequences.ids.data() + start + at + 1;
      log_softmax_gather(p, rows, vocab, target, logprob.data());
      for (int64_t r = 0; r < rows; ++r) nll_a -= logprob[r];
      log_softmax_gather(q, rows, vocab, target, logprob.data());
      for (int64_t r = 0; r < rows; ++r) nll_b -= logprob[r];
      kl_divergence(p, q, rows, vocab, kl.data(), same.data());
      for (int64_t r = 0; r < rows; ++r) kl_sum += kl[r], agree += same[r];
    }
    kl_sums.push_back(kl_sum);
    counts.push_back(std::max<int64_t>(0, length - 1));
    start += length;
    if (progress) progress({"check", static_cast<double>(start), static_cast<double>(sequences.tokens()), "tokens"});
  }
  for (int64_t c : counts) out.tokens += c;
  const double n = static_cast<double>(std::max<int64_t>(out.tokens, 1));
  const MeanInterval interval = mean_interval(kl_sums, counts);
  out.kl = interval.mean;
  out.kl_ci95 = interval.ci95;
  out.top1_agreement = agree / n;
  out.perplexity_source = std::exp(nll_a / n);
  out.perplexity = std::exp(nll_b / n);
  return out;
}

}  // namespace awq
