#include "eval/compare.h"

#include <gtest/gtest.h>

namespace awq {
namespace {

Divergence windows(std::vector<double> kl) {
  Divergence d;
  d.window_kl = std::move(kl);
  return d;
}

TEST(Compare, TiesAreJudgedOnPairedWindows) {
  // Windows differ much among themselves, the two rows hardly - but always the same way: no tie.
  EXPECT_FALSE(tied(windows({0.1, 0.5, 0.9, 0.3}), windows({0.11, 0.511, 0.909, 0.31})));
  // Now one, now the other.
  EXPECT_TRUE(tied(windows({0.1, 0.5, 0.9, 0.3}), windows({0.12, 0.48, 0.91, 0.29})));
  EXPECT_TRUE(tied(windows({0.1, 0.2}), windows({0.1, 0.2})));
  EXPECT_TRUE(tied(windows({0.1}), windows({0.9})));  // one window tells nothing
}

}  // namespace
}  // namespace awq
