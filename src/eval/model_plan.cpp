#include "eval/model_plan.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "eval/plan_search.h"
#include "weights/packing.h"

namespace awq {
namespace {

// Bytes of a unit's linears in the form that holds several schemes.
int64_t unit_bytes(const Checkpoint& checkpoint, const Unit& unit, const Scheme& scheme) {
  int64_t bytes = 0;
  for (const std::string& module : unit.modules) {
    const StoredTensor* weight = checkpoint.find(module + ".weight");
    const int64_t out = weight->shape[0], in = weight->shape[1];
    if (scheme.bits == kDenseBits) {
      bytes += 2 * out * in;
    } else {
      for (const StoredPart& part : stored_parts(StoredForm::kPackQuantized, scheme, out, in, DType::kF16)) bytes += part.bytes();
    }
  }
  return bytes;
}

std::string text_of(const Scheme& s) { return s.bits == kDenseBits ? "16 bits" : s.text(); }

struct Options {
  std::vector<Scheme> schemes;  // of one unit
  std::vector<PlanChoice> choices;
};

Options options_of(const Checkpoint& checkpoint, const UnitDiagnosis& unit, const std::vector<Scheme>& candidates, bool dense, double factor) {
  Options out;
  for (size_t c = 0; c < candidates.size(); ++c) {
    const double kl = candidate_kl(unit, c);
    if (!std::isfinite(kl)) continue;
    out.schemes.push_back(candidates[c]);
    out.choices.push_back({unit_bytes(checkpoint, unit.unit, candidates[c]), std::max(0.0, kl * factor)});
  }
  if (dense) {
    out.schemes.push_back(mixed_scheme(kDenseBits, -1, true));
    out.choices.push_back({unit_bytes(checkpoint, unit.unit, out.schemes.back()), 0});
  }
  if (out.schemes.empty())
    fail(Code::kBadArgument, "{}: none of the schemes allowed fits: expected a group size that divides its inputs", unit.unit.name);
  return out;
}

}  // namespace

std::vector<Scheme> plan_schemes(const std::vector<int>& bits, const std::vector<int>& groups) {
  std::vector<Scheme> out;
  for (const int b : bits)
    for (const int g : groups)
      if (b != kDenseBits) out.push_back(mixed_scheme(b, g, false));
  return out;
}

ModelPlan plan_model(const Checkpoint& checkpoint, const Diagnosis& d, const std::vector<Scheme>& candidates, bool dense, const PlanGoal& goal) {
  double sum = 0;
  for (const UnitDiagnosis& u : d.units) sum += u.kl;
  const double factor = sum > 0 ? d.total.kl / sum : 1;

  std::vector<Options> options;
  std::vector<std::vector<PlanChoice>> choices;
  int64_t weights = 0, uniform = 0;
  for (const UnitDiagnosis& u : d.units) {
    options.push_back(options_of(checkpoint, u, candidates, dense, factor));
    choices.push_back(options.back().choices);
    weights += u.unit.weights;
    uniform += unit_bytes(checkpoint, u.unit, d.base);
  }
  ModelPlan out;
  QuantizeOptions base;
  base.mixed = MixedPlan{"", "", d.base, {}};
  out.uniform_bytes = plan_quantize(checkpoint, base, 0).weight_bytes;
  const int64_t others = out.uniform_bytes - uniform;
  std::vector<size_t> chosen;
  if (goal.kl)
    chosen = least_bytes(choices, *goal.kl);
  else if (goal.more_bytes)
    chosen = least_kl(choices, uniform + static_cast<int64_t>(std::floor(*goal.more_bytes * static_cast<double>(out.uniform_bytes))));
  else
    chosen = least_kl(choices, static_cast<int64_t>(std::floor(goal.bits_per_weight.value() / 8 * static_cast<double>(weights))));

  const PlanChoice total = total_of(choices, chosen);
  std::map<std::string, int64_t> count;
  out.plan.base = d.base;
  for (size_t u = 0; u < chosen.size(); ++u) {
    const Scheme& scheme = options[u].schemes[chosen[u]];
    count[text_of(scheme)] += d.units[u].unit.weights;
    if (scheme != d.base) out.plan.units.push_back({d.units[u].unit.modules, scheme});
  }
  out.bytes = others + total.bytes;
  out.bits_per_weight = 8.0 * static_cast<double>(total.bytes) / static_cast<double>(std::max<int64_t>(1, weights));
  out.expected_kl = total.kl;
  out.uniform_kl = d.total.kl;
  out.schemes.assign(count.begin(), count.end());
  return out;
}

}  // namespace awq
