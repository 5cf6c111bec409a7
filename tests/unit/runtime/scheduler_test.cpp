// Pages and scheduling, without a model.
#include "runtime/scheduler.h"

#include <gtest/gtest.h>

#include <set>

#include "base/error.h"

namespace awq {
namespace {

TEST(PageAllocator, HandsOutEveryPageOnce) {
  PageAllocator pages(5);
  std::vector<int32_t> a, b;
  EXPECT_TRUE(pages.allocate(3, a));
  EXPECT_FALSE(pages.allocate(3, b));
  EXPECT_TRUE(b.empty());
  EXPECT_EQ(pages.available(), 2);
  EXPECT_TRUE(pages.allocate(2, b));
  std::set<int32_t> all(a.begin(), a.end());
  all.insert(b.begin(), b.end());
  EXPECT_EQ(all, (std::set<int32_t>{0, 1, 2, 3, 4}));
  pages.release(a);
  EXPECT_TRUE(a.empty());
  EXPECT_EQ(pages.available(), 3);
  EXPECT_TRUE(pages.allocate(3, a));
}

TEST(PageAllocator, ReleasingTwiceIsABug) {
  PageAllocator pages(2);
  std::vector<int32_t> a;
  pages.allocate(1, a);
  std::vector<int32_t> again = a;
  pages.release(a);
  EXPECT_THROW(pages.release(again), Error);
}

TEST(PageAllocator, PagesHoldSixteenTokens) {
  EXPECT_EQ(PageAllocator::pages_for(1), 1);
  EXPECT_EQ(PageAllocator::pages_for(16), 1);
  EXPECT_EQ(PageAllocator::pages_for(17), 2);
}

std::unique_ptr<Sequence> sequence(int64_t id, size_t prompt, int64_t max_tokens) {
  Request request;
  request.prompt.assign(prompt, 1);
  return std::make_unique<Sequence>(id, std::move(request), max_tokens, 10);
}

using Plan = std::vector<std::pair<int64_t, int64_t>>;  // id, tokens

// Plans a step and runs it: pending tokens go to the cache, and a sequence without any left gets a new one.
Plan run_step(Scheduler& scheduler) {
  Plan plan;
  for (const Slice& slice : scheduler.plan()) {
    plan.emplace_back(slice.sequence->id, slice.tokens);
    const bool last = slice.last();
    slice.sequence->past += slice.tokens;
    if (last) slice.sequence->tokens.push_back(2);
  }
  return plan;
}

TEST(Scheduler, PromptsAreReadInChunksBesideDecodes) {
  Scheduler scheduler(100, 10, 4);
  scheduler.submit(sequence(0, 4, 20));
  scheduler.submit(sequence(1, 23, 20));
  scheduler.submit(sequence(2, 3, 20));
  EXPECT_EQ(run_step(scheduler), (Plan{{0, 4}, {1, 6}}));
  EXPECT_EQ(run_step(scheduler), (Plan{{0, 1}, {1, 9}}));
  EXPECT_EQ(run_step(scheduler), (Plan{{0, 1}, {1, 8}, {2, 1}}));
  EXPECT_EQ(run_step(scheduler), (Plan{{0, 1}, {1, 1}, {2, 2}}));
  EXPECT_EQ(run_step(scheduler), (Plan{{0, 1}, {1, 1}, {2, 1}}));
}

TEST(Scheduler, EveryDecodeRunsWhenPromptsFillTheStep) {
  Scheduler scheduler(100, 3, 3);
  scheduler.submit(sequence(0, 1, 20));
  scheduler.submit(sequence(1, 1, 20));
  scheduler.submit(sequence(2, 8, 20));
  EXPECT_EQ(run_step(scheduler), (Plan{{0, 1}, {1, 1}, {2, 1}}));
  for (int i = 0; i < 7; ++i) EXPECT_EQ(run_step(scheduler), (Plan{{0, 1}, {1, 1}, {2, 1}}));
}

TEST(Scheduler, AtMostSoManySequences) {
  Scheduler scheduler(100, 50, 2);
  for (int i = 0; i < 3; ++i) scheduler.submit(sequence(i, 2, 20));
  EXPECT_EQ(run_step(scheduler), (Plan{{0, 2}, {1, 2}}));
  EXPECT_EQ(scheduler.waiting(), 1);
  scheduler.find(0)->finished = FinishReason::kStop;
  EXPECT_EQ(scheduler.take_finished().size(), 1u);
  EXPECT_EQ(run_step(scheduler), (Plan{{1, 1}, {2, 2}}));
}

// A short request behind a long one waits: the long one would starve otherwise.
TEST(Scheduler, AdmissionWaitsForPagesAndKeepsTheOrder) {
  Scheduler scheduler(4, 200, 8);
  scheduler.submit(sequence(0, 20, 12));  // 2 pages
  scheduler.submit(sequence(1, 40, 8));   // 3 pages
  scheduler.submit(sequence(2, 3, 5));    // 1 page
  EXPECT_EQ(run_step(scheduler), (Plan{{0, 20}}));
  EXPECT_EQ(run_step(scheduler), (Plan{{0, 1}}));
  EXPECT_EQ(scheduler.pages().available(), 2);
  scheduler.find(0)->finished = FinishReason::kLength;
  const auto finished = scheduler.take_finished();
  ASSERT_EQ(finished.size(), 1u);
  EXPECT_TRUE(finished[0]->pages.empty());
  EXPECT_EQ(run_step(scheduler), (Plan{{1, 40}, {2, 3}}));
  EXPECT_EQ(scheduler.pages().available(), 0);
}

TEST(Scheduler, FinishedWhileWaitingNeverRuns) {
  Scheduler scheduler(4, 10, 1);
  scheduler.submit(sequence(0, 2, 2));
  scheduler.submit(sequence(1, 2, 2));
  run_step(scheduler);
  scheduler.find(1)->finished = FinishReason::kCancelled;
  EXPECT_EQ(scheduler.take_finished().front()->id, 1);
  EXPECT_EQ(scheduler.find(1), nullptr);
  EXPECT_EQ(scheduler.waiting(), 0);
  EXPECT_EQ(run_step(scheduler), (Plan{{0, 1}}));
}

}  // namespace
}  // namespace awq
