#include "quant/race.h"

#include <gtest/gtest.h>

#include <cmath>

namespace awq {
namespace {

using Errors = std::vector<std::vector<double>>;

// Cases of very different difficulty, on which a candidate differs from another by `by` and a wobble that averages out.
std::vector<double> cases(size_t n, double by, double wobble) {
  std::vector<double> out;
  for (size_t i = 0; i < n; ++i) out.push_back(100.0 * static_cast<double>(1 + i * i) + by + (i % 2 == 0 ? wobble : -wobble));
  return out;
}

TEST(Race, LeavesWhoIsWorseInEveryCase) {
  EXPECT_EQ(worse_beyond_doubt({cases(8, 5, 0.1), cases(8, 0, 0), cases(8, 5, 0)}), (std::vector<bool>{true, false, true}));
}

TEST(Race, KeepsADifferenceThatMayBeChance) {
  // Mean 1; the standard error of eight differences of 1 ± 4 is 1.51, so 1 is below three of it, and 5 above.
  EXPECT_EQ(worse_beyond_doubt({cases(8, 0, 0), cases(8, 1, 4), cases(8, 5, 4)}), (std::vector<bool>{false, false, true}));
}

TEST(Race, FewCasesProveNothing) {
  EXPECT_EQ(worse_beyond_doubt({cases(7, 0, 0), cases(7, 50, 0)}), (std::vector<bool>{false, false}));
}

TEST(Race, WhatIsNotFiniteLosesAtOnceAndNeverLeads) {
  const Errors errors = {{NAN, 1}, {INFINITY, 0}, {2, 2}, {2, 3}};
  EXPECT_EQ(least_sum(errors), 2u);
  EXPECT_EQ(worse_beyond_doubt(errors), (std::vector<bool>{true, true, false, false}));
  EXPECT_EQ(worse_beyond_doubt({{NAN}, {NAN}}), (std::vector<bool>{false, false}));
}

TEST(Race, TheFirstOfEqualsLeads) { EXPECT_EQ(least_sum({{3}, {2}, {2}}), 1u); }

}  // namespace
}  // namespace awq
