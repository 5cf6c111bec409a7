#include "eval/plan_search.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/system.h"

namespace awq {
namespace {

using Choices = std::vector<std::vector<PlanChoice>>;
using Chosen = std::vector<size_t>;

// Of each unit the choice with the least kl + price * bytes; the smaller one where two are equal.
Chosen at_price(const Choices& choices, double price) {
  Chosen out(choices.size(), 0);
  for (size_t u = 0; u < choices.size(); ++u) {
    const auto cost = [&](size_t c) { return choices[u][c].kl + price * static_cast<double>(choices[u][c].bytes); };
    for (size_t c = 1; c < choices[u].size(); ++c)
      if (cost(c) < cost(out[u]) || (cost(c) == cost(out[u]) && choices[u][c].bytes < choices[u][out[u]].bytes)) out[u] = c;
  }
  return out;
}

Chosen smallest(const Choices& choices) {
  Chosen out(choices.size(), 0);
  for (size_t u = 0; u < choices.size(); ++u)
    for (size_t c = 1; c < choices[u].size(); ++c) {
      const PlanChoice &a = choices[u][c], &b = choices[u][out[u]];
      if (a.bytes < b.bytes || (a.bytes == b.bytes && a.kl < b.kl)) out[u] = c;
    }
  return out;
}

// The choices at the price where the bound begins to hold: a higher price means fewer bytes and more KL.
template <class Fits>
Chosen at_bound(const Choices& choices, bool holds_at_high_prices, const Fits& fits) {
  double low = 1e-30, high = 1e6;
  for (int i = 0; i < 200; ++i) {
    const double middle = std::sqrt(low * high);
    if (fits(at_price(choices, middle)) == holds_at_high_prices)
      high = middle;
    else
      low = middle;
  }
  return at_price(choices, holds_at_high_prices ? high : low);
}

// Repeats the single change with the best `gain` (> 0) until none is left.
template <class Gain>
void improve(const Choices& choices, Chosen& chosen, const Gain& gain) {
  while (true) {
    const PlanChoice total = total_of(choices, chosen);
    double best = 0;
    size_t unit = 0, choice = 0;
    for (size_t u = 0; u < choices.size(); ++u)
      for (size_t c = 0; c < choices[u].size(); ++c)
        if (const double g = c == chosen[u] ? 0 : gain(total, choices[u][chosen[u]], choices[u][c]); g > best) best = g, unit = u, choice = c;
    if (best == 0) return;
    chosen[unit] = choice;
  }
}

}  // namespace

PlanChoice total_of(const Choices& choices, const Chosen& chosen) {
  PlanChoice total;
  for (size_t u = 0; u < choices.size(); ++u) total.bytes += choices[u][chosen[u]].bytes, total.kl += choices[u][chosen[u]].kl;
  return total;
}

Chosen least_kl(const Choices& choices, int64_t bytes) {
  const auto fits = [&](const Chosen& c) { return total_of(choices, c).bytes <= bytes; };
  if (const Chosen least = smallest(choices); !fits(least))
    fail(Code::kBadArgument, "expected at least {} for the linears, the smallest of the schemes allowed, got {}",
         human_bytes(static_cast<double>(total_of(choices, least).bytes)), human_bytes(static_cast<double>(bytes)));
  Chosen chosen = at_bound(choices, true, fits);
  improve(choices, chosen, [&](const PlanChoice& total, const PlanChoice& from, const PlanChoice& to) {
    const bool possible = to.kl < from.kl && total.bytes - from.bytes + to.bytes <= bytes;
    return possible ? (from.kl - to.kl) / static_cast<double>(std::max<int64_t>(1, to.bytes - from.bytes)) : 0;
  });
  return chosen;
}

Chosen least_bytes(const Choices& choices, double kl) {
  const auto fits = [&](const Chosen& c) { return total_of(choices, c).kl <= kl; };
  if (const Chosen best = at_price(choices, 0); !fits(best))
    fail(Code::kBadArgument, "expected a KL of at least {:.4g}, the least that the schemes allowed leave, got {:.4g}", total_of(choices, best).kl, kl);
  Chosen chosen = at_bound(choices, false, fits);
  improve(choices, chosen, [&](const PlanChoice& total, const PlanChoice& from, const PlanChoice& to) {
    const bool possible = to.bytes < from.bytes && total.kl - from.kl + to.kl <= kl;
    return possible ? static_cast<double>(from.bytes - to.bytes) / std::max(1e-30, to.kl - from.kl) : 0;
  });
  return chosen;
}

}  // namespace awq
