// From a diagnosis to a plan: a scheme for each unit.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "eval/diagnose.h"
#include "quant/mixed_plan.h"

namespace awq {

// The schemes of every combination: 8 bits symmetric, fewer with an integer zero.
std::vector<Scheme> plan_schemes(const std::vector<int>& bits, const std::vector<int>& groups);

// One of the three is set.
struct PlanGoal {
  std::optional<double> bits_per_weight;  // of the linears, codes, scales and zeros
  std::optional<double> more_bytes;       // of the whole checkpoint over the uniform one's, as a share: 0.06 is 6 % more
  std::optional<double> kl;               // nats per target
};

struct ModelPlan {
  MixedPlan plan;
  int64_t bytes = 0, uniform_bytes = 0;    // of the weight files
  double bits_per_weight = 0;              // of the linears that are quantized or could be
  double expected_kl = 0, uniform_kl = 0;  // the latter measured, with everything in the base scheme
  std::vector<std::pair<std::string, int64_t>> schemes;  // weights of each, by scheme
};

// diagnosis: made with options.candidates = the schemes allowed. dense: 16 bits are allowed too. The expected KL of a plan is the
// sum over units times the factor by which the whole exceeds the sum under the base scheme. kBadArgument: a goal out of reach, or a
// unit for which no scheme allowed fits.
ModelPlan plan_model(const Checkpoint& checkpoint, const Diagnosis& diagnosis, const std::vector<Scheme>& candidates, bool dense,
                     const PlanGoal& goal);

}  // namespace awq
