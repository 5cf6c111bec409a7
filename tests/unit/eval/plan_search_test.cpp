// Plans against trying everything.
#include "eval/plan_search.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "base/error.h"

namespace awq {
namespace {

using Choices = std::vector<std::vector<PlanChoice>>;

// Schemes as they are: more bytes, less KL, with noise, so that some choices are useless.
Choices random_choices(std::mt19937& rng, size_t units, size_t schemes) {
  std::uniform_real_distribution<double> uniform(0.5, 1.5);
  Choices out;
  for (size_t u = 0; u < units; ++u) {
    const double weight = 1000 * uniform(rng), cost = std::exp(2 * uniform(rng) - 2);
    out.emplace_back();
    for (size_t s = 0; s < schemes; ++s)
      out.back().push_back({static_cast<int64_t>(weight * (3 + static_cast<double>(s) * uniform(rng))), cost * std::pow(4.0, -static_cast<double>(s)) * uniform(rng)});
  }
  return out;
}

// Calls see(total) for every combination.
template <class See>
void all(const Choices& choices, const See& see) {
  std::vector<size_t> at(choices.size(), 0);
  while (true) {
    see(total_of(choices, at));
    size_t u = 0;
    while (u < at.size() && ++at[u] == choices[u].size()) at[u++] = 0;
    if (u == at.size()) return;
  }
}

TEST(PlanSearch, LeastKlIsNearTheBestOfAllCombinations) {
  std::mt19937 rng(1);
  double excess = 0;
  for (int round = 0; round < 50; ++round) {
    const Choices choices = random_choices(rng, 7, 4);
    int64_t smallest = INT64_MAX, largest = 0;
    all(choices, [&](const PlanChoice& t) { smallest = std::min(smallest, t.bytes), largest = std::max(largest, t.bytes); });
    const int64_t bound = smallest + (largest - smallest) * (round + 1) / 60;
    double best = INFINITY;
    all(choices, [&](const PlanChoice& t) { if (t.bytes <= bound) best = std::min(best, t.kl); });
    const PlanChoice found = total_of(choices, least_kl(choices, bound));
    EXPECT_LE(found.bytes, bound);
    EXPECT_GE(found.kl, best * (1 - 1e-12));
    excess += found.kl / best - 1;
  }
  EXPECT_LT(excess / 50, 0.06);  // seven units; with hundreds the gap of one unit vanishes
}

TEST(PlanSearch, LeastBytesIsNearTheBestOfAllCombinations) {
  std::mt19937 rng(2);
  double excess = 0;
  for (int round = 0; round < 50; ++round) {
    const Choices choices = random_choices(rng, 7, 4);
    double least = INFINITY, most = 0;
    all(choices, [&](const PlanChoice& t) { least = std::min(least, t.kl), most = std::max(most, t.kl); });
    const double bound = least * std::pow(most / least, (round + 1) / 60.0);
    int64_t best = INT64_MAX;
    all(choices, [&](const PlanChoice& t) { if (t.kl <= bound) best = std::min(best, t.bytes); });
    const PlanChoice found = total_of(choices, least_bytes(choices, bound));
    EXPECT_LE(found.kl, bound);
    EXPECT_GE(found.bytes, best);
    excess += static_cast<double>(found.bytes) / static_cast<double>(best) - 1;
  }
  EXPECT_LT(excess / 50, 0.03);
}

TEST(PlanSearch, TakesTheBestWhereEverythingFits) {
  std::mt19937 rng(3);
  const Choices choices = random_choices(rng, 200, 5);
  double least = 0;
  for (const auto& unit : choices) {
    double best = INFINITY;
    for (const PlanChoice& c : unit) best = std::min(best, c.kl);
    least += best;
  }
  EXPECT_NEAR(total_of(choices, least_kl(choices, INT64_MAX / 2)).kl, least, 1e-12);
}

TEST(PlanSearch, RefusesWhatIsOutOfReach) {
  const Choices choices = {{{100, 0.5}, {200, 0.1}}, {{100, 0.5}}};
  EXPECT_THROW(least_kl(choices, 199), Error);
  EXPECT_EQ(total_of(choices, least_kl(choices, 200)).bytes, 200);
  EXPECT_THROW(least_bytes(choices, 0.59), Error);
  EXPECT_EQ(total_of(choices, least_bytes(choices, 0.6)).bytes, 300);
}

}  // namespace
}  // namespace awq
