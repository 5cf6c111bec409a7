// Fixed orders of sums on a device: host code, tested without one.
#include "kernels/cuda/gemm_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <vector>

#include "kernels/cuda/key_parts.h"

namespace awq::cuda {
namespace {

struct Shape {
  int panels, units;  // of 128 rows, of 128 columns
};
// qkv, o, gate and up, down of 8B and 1B models, an output layer, and small and odd ones.
const Shape kShapes[] = {{48, 32}, {32, 32}, {224, 32}, {32, 112}, {24, 16}, {16, 16}, {128, 16}, {16, 64}, {1002, 32},
                         {32, 86}, {1, 1},   {5, 5},    {1, 128},  {66, 3},  {67, 9},  {132, 4},  {133, 4}};
struct Tile {
  int tokens, grain;  // stages in 128 columns
};
const Tile kTiles[] = {{16, 1}, {32, 1}, {64, 1}, {128, 1}, {256, 2}};

// Where parts of a tile begin, in units of 128 columns, as the workers walk.
std::vector<int> cuts_of(const GemmPlan& plan, int tile) {
  std::vector<int> cuts;
  for (int c = 0; c < plan.workers; ++c)
    for (GemmWalk walk(plan, c); walk.next(plan, c);) {
      if (walk.tile != tile) continue;
      EXPECT_EQ(walk.begin % plan.grain, 0);
      cuts.push_back(walk.begin / plan.grain);
    }
  std::sort(cuts.begin(), cuts.end());
  return cuts;
}

TEST(FixedPlan, CutsDoNotDependOnTokensOrTiles) {
  for (const Shape& s : kShapes) {
    SCOPED_TRACE(testing::Message() << s.panels << " panels of " << s.units << " units");
    const std::vector<int> want = cuts_of(fixed_plan(s.panels, s.units, 1, 16, 1), 0);
    EXPECT_EQ(static_cast<int>(want.size()), fixed_parts(s.panels, s.units));
    for (const Tile& t : kTiles)
      for (const int64_t tokens : {1, 2, 16, 17, 64, 255, 256, 257, 300, 2048}) {
        const int64_t taken = fixed_tokens(s.panels, fixed_parts(s.panels, s.units), tokens, t.tokens);
        const GemmPlan plan = fixed_plan(s.panels, s.units, taken, t.tokens, t.grain);
        for (const int tile : {0, plan.tiles() / 2, plan.tiles() - 1})
          EXPECT_EQ(cuts_of(plan, tile), want) << tokens << " tokens in tiles of " << t.tokens << ", tile " << tile;
      }
  }
}

TEST(FixedPlan, CoversEveryStageOfEveryTileOnce) {
  for (const Shape& s : kShapes)
    for (const Tile& t : kTiles)
      for (const int64_t tokens : {1, 40, 300}) {
        SCOPED_TRACE(testing::Message() << s.panels << " x " << s.units << ", " << tokens << " tokens in tiles of " << t.tokens);
        const GemmPlan plan = fixed_plan(s.panels, s.units, tokens, t.tokens, t.grain);
        EXPECT_EQ(plan.units, s.units * t.grain);
        EXPECT_GE(plan.tiles_n * t.tokens, tokens);
        std::vector<int> covered(static_cast<size_t>(plan.tiles() * plan.units));
        std::set<std::pair<int, int>> places;
        for (int c = 0; c < plan.workers; ++c) {
          int walks = 0;
          for (GemmWalk walk(plan, c); walk.next(plan, c); ++walks) {
            ASSERT_GE(walk.tile, 0);
            ASSERT_LT(walk.tile, plan.tiles());
            ASSERT_LT(walk.begin, walk.end);
            ASSERT_LE(walk.end, plan.units);
            for (int u = walk.begin; u < walk.end; ++u) ++covered[static_cast<size_t>(walk.tile * plan.units + u)];
          }
          EXPECT_EQ(walks, 1) << "worker " << c;
        }
        EXPECT_EQ(std::count(covered.begin(), covered.end(), 1), plan.tiles() * plan.units);
        for (int tile = 0; tile < plan.tiles(); ++tile) {
          int m, n;
          plan.position(tile, &m, &n);
          places.insert({m, n});
        }
        EXPECT_EQ(static_cast<int>(places.size()), plan.tiles());
      }
}

// A worker's sums and its flag have a slot each: kFixedProcessors of them.
TEST(FixedPlan, PartsFitTheirSlots) {
  for (const Shape& s : kShapes)
    for (const Tile& t : kTiles) {
      const int parts = fixed_parts(s.panels, s.units);
      EXPECT_GE(parts, 1);
      EXPECT_LE(parts, std::max(1, s.units / kFixedPartUnits));
      for (const int64_t tokens : {1, 256, 5000}) {
        const int64_t taken = fixed_tokens(s.panels, parts, tokens, t.tokens);
        EXPECT_GE(taken, 1);
        EXPECT_LE(taken, tokens);
        if (parts > 1) {
          EXPECT_LE(fixed_plan(s.panels, s.units, taken, t.tokens, t.grain).workers, kFixedProcessors);
        }
      }
    }
  EXPECT_GT(fixed_parts(32, 86), 2) << "86 = 2 x 43 units need no divisor";
}

TEST(KeyRange, DependsOnThePositionAlone) {
  for (const int window : {0, 1, 40, 128, 300})
    for (int position = 0; position < 700; ++position) {
      const KeyRange range(position, window);
      ASSERT_LE(range.first, position);
      ASSERT_EQ(position - range.first + 1, window > 0 ? std::min(window, position + 1) : position + 1);
      ASSERT_EQ(range.begin, range.first / kPartKeys);
      ASSERT_LT(range.begin, range.end);
      ASSERT_EQ((range.end - 1) * kPartKeys <= position && position < range.end * kPartKeys, true);
    }
}

TEST(KeyRange, SlotsOfSequencesDoNotMeet) {
  for (const int step : {1, 7, 8, 9, 100}) {
    int pages = 0, next = 0;
    for (int i = 0; i < 40; ++i) {
      const int own = 1 + i * step % 37, slot = first_part_slot(pages, i);
      EXPECT_GE(slot, next);
      next = slot + KeyRange(own * kCachePage - 1, 0).end;  // as many keys as the pages hold
      pages += own;
      EXPECT_LE(next, part_slots(pages, i + 1));
    }
  }
}

}  // namespace
}  // namespace awq::cuda
