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
  const auto solve = [&](int64_t spare) {
    if (goal.kl) return least_bytes(choices, *goal.kl);
    if (goal.bits_per_weight) return least_kl(choices, static_cast<int64_t>(std::floor(*goal.bits_per_weight / 8 * static_cast<double>(weights))));
    return least_kl(choices, static_cast<int64_t>(std::floor((1 + goal.more_bytes.value()) * static_cast<double>(out.uniform_bytes))) - others - spare);
  };
  std::vector<size_t> chosen = solve(0);
  const auto fill = [&] {
    out.plan.base = d.base;
    out.plan.units.clear();
    for (size_t u = 0; u < chosen.size(); ++u)
      if (const Scheme& scheme = options[u].schemes[chosen[u]]; scheme != d.base) out.plan.units.push_back({d.units[u].unit.modules, scheme});
    QuantizeOptions mixed;
    mixed.mixed = out.plan;
    out.bytes = plan_quantize(checkpoint, mixed, 0).weight_bytes;
  };
  fill();
  // The headers of the files grow and shrink with the tensors' names: a few kilobytes that the choices do not know of.
  if (goal.more_bytes)
    if (const auto most = static_cast<int64_t>(std::floor((1 + *goal.more_bytes) * static_cast<double>(out.uniform_bytes))); out.bytes > most) {
      chosen = solve(2 * (out.bytes - most));
      fill();
    }

  const PlanChoice total = total_of(choices, chosen);
  std::map<std::string, int64_t> count;
  for (size_t u = 0; u < chosen.size(); ++u) count[text_of(options[u].schemes[chosen[u]])] += d.units[u].unit.weights;
  out.bits_per_weight = 8.0 * static_cast<double>(total.bytes) / static_cast<double>(std::max<int64_t>(1, weights));
  out.expected_kl = total.kl;
  out.uniform_kl = d.total.kl;
  out.schemes.assign(count.begin(), count.end());
  return out;
}

}  // namespace awq
