#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "eval/answer_task.h"

namespace awq {
namespace {

using ::testing::ElementsAre;

// As Python's re.findall takes the patterns of the harness's gsm8k.
TEST(Gsm8kNumbers, AreTheHarnesss) {
  EXPECT_EQ(strict_number("so\n#### 1,234.50 eggs #### 7"), "1,234.50");
  EXPECT_EQ(strict_number("#### -5"), "-5");
  EXPECT_EQ(strict_number("####5 #### x"), "[invalid]");
  EXPECT_EQ(flexible_number("first 3, then $12.00 and -7 left"), "-7");
  EXPECT_EQ(flexible_number("it is $5."), "$5.");
  EXPECT_EQ(flexible_number("... and nothing"), "...");
  EXPECT_EQ(flexible_number("a-b - 9 %"), "9");
  EXPECT_EQ(flexible_number("no digit, here"), "[invalid]");
}

TEST(Gsm8kNumbers, AreComparedWithoutDecoration) {
  EXPECT_TRUE(same_number("$1,234.", "many words\n#### 1234"));
  EXPECT_FALSE(same_number("1234.0", "#### 1234"));
  EXPECT_FALSE(same_number("[invalid]", "#### 1234"));
}

TEST(PassAtK, IsChensEstimate) {
  EXPECT_EQ(pass_at_k(1, 1, 1), 1);
  EXPECT_EQ(pass_at_k(1, 0, 1), 0);
  EXPECT_NEAR(pass_at_k(10, 3, 1), 0.3, 1e-12);
  EXPECT_NEAR(pass_at_k(10, 3, 5), 1 - 21.0 / 252, 1e-12);  // 1 - C(7, 5) / C(10, 5)
  EXPECT_EQ(pass_at_k(10, 6, 5), 1);
  EXPECT_THAT(pass_ks(12), ElementsAre(1, 2, 5, 10));
}

}  // namespace
}  // namespace awq
