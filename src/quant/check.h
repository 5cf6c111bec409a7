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
};

// Both states must come from the same sequences and have passed all blocks.
CheckResult compare_outputs(const HiddenStates& source, const OutputHead& source_head, const HiddenStates& result,
                            const OutputHead& result_head, const ProgressFn& progress);

// Mean and half width of the 95 % interval of per-sequence means (normal approximation; 0 for one sequence).
struct MeanInterval {
  double mean = 0, ci95 = 0;
};
MeanInterval mean_interval(const std::vector<double>& sums, const std::vector<int64_t>& counts);

}  // namespace awq
