#include "tokenizer/rank_queue.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

namespace awq {
namespace {

// Pushes between pops, near the place reached and far from it, of lower, equal and higher ranks.
TEST(RankQueue, PopsLikeASortedSet) {
  struct Entry {
    int32_t left;
  };
  std::mt19937 random(3);
  RankQueue<Entry> queue;
  for (int round = 0; round < 200; ++round) {
    queue.start(10);
    std::multiset<std::pair<int32_t, int32_t>> expected;
    const auto push = [&](int32_t rank, int32_t left) {
      queue.push(rank, {left});
      expected.emplace(rank, left);
    };
    for (int i = 0; i < 50; ++i)
      push(static_cast<int32_t>(random() % 10), static_cast<int32_t>(random() % 100));
    const bool drain = round % 3 != 0;  // start() must empty what is left
    for (int i = 0; drain ? !expected.empty() : i < 20; ++i) {
      Entry e{};
      ASSERT_TRUE(queue.pop(e));
      const auto best = *expected.begin();
      EXPECT_EQ(e.left, best.second);
      expected.erase(expected.begin());
      if (i < 100 && random() % 2 == 0)
        push(static_cast<int32_t>(random() % 10), static_cast<int32_t>(random() % 100));
    }
    if (drain) {
      Entry e{};
      EXPECT_FALSE(queue.pop(e));
    }
  }
}

}  // namespace
}  // namespace awq
