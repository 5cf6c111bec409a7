// The check that ends every quantization: held-out text runs through the source's and the written blocks side by side,
// and the two distributions over the next token are compared.
#pragma once
#include <vector>

#include "quant/sequences.h"

namespace awq {

struct CheckResult {
  int64_t tokens = 0;  // targets compared
  double kl = 0, kl_ci95 = 0;  // nats per token: mean, half width of the 95 % interval over sequences
  double top1_agreement = 0;   // 0..1
  double perplexity_source = 0, perplexity = 0;
};

// Final norm and output matrix of one side.
struct OutputHead {
  const float* norm = nullptr;  // [hidden]
  const PackedLinear* head = nullptr;
  float rms_eps = 0;
  float softcap = 0;  // of the logits; 0: none
};

// What a result makes of one target, beside the source.
struct TokenLoss {
  double kl = 0, nll_source = 0, nll = 0;  // nats
  bool same_top = false;
};

// The source's side, compared with any number of results.
class OutputComparison {
 public:
  // source and what `head` points to must live as long as this. Logits of the source are kept where they take at most
  // `keep_bytes`, else computed again for each result.
  OutputComparison(const HiddenStates& source, const OutputHead& head, int64_t keep_bytes = 0);
  // Of every token but the last of each sequence, in order. `result` comes from the same sequences and has passed all blocks.
  std::vector<TokenLoss> losses(const HiddenStates& result, const OutputHead& head, const ProgressFn& progress = {});

 private:
  const float* source_logits(int64_t first, int64_t rows);

  const HiddenStates& source_;
  OutputHead head_;
  std::vector<float> logits_, normed_;
  std::vector<bool> kept_;  // blocks of the source's logits that are there; empty: none is kept
};

// Of the losses of all targets of `sequences`, in order.
CheckResult summarize(const TokenSequences& sequences, const std::vector<TokenLoss>& losses);

// Both states must come from the same sequences and have passed all blocks.
CheckResult compare_outputs(const HiddenStates& source, const OutputHead& source_head, const HiddenStates& result,
                            const OutputHead& result_head, const ProgressFn& progress);

// Mean and half width of the 95 % interval of per-sequence means (normal approximation; 0 for one sequence).
struct MeanInterval {
  double mean = 0, ci95 = 0;
};
MeanInterval mean_interval(const std::vector<double>& sums, const std::vector<int64_t>& counts);

}  // namespace awq
