// The cheapest schemes for the units of a model: the least expected KL within a size, or the least size within a KL.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace awq {

struct PlanChoice {
  int64_t bytes = 0;
  double kl = 0;  // nats per target, at least 0
};

// choices[u]: what unit u can get; at least one each. Returns the index chosen for each unit.
//
// The Lagrangian of the problem is solved for the multiplier at which the bound is met, then what is left of the bound is filled
// by the single changes that gain most: within one unit's change of the optimum, since choices are many and each is small.
// Deterministic. kBadArgument where even the smallest choices exceed the bytes, or the best ones the KL.
std::vector<size_t> least_kl(const std::vector<std::vector<PlanChoice>>& choices, int64_t bytes);
std::vector<size_t> least_bytes(const std::vector<std::vector<PlanChoice>>& choices, double kl);

PlanChoice total_of(const std::vector<std::vector<PlanChoice>>& choices, const std::vector<size_t>& chosen);

}  // namespace awq
