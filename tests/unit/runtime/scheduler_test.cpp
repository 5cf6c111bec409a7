// Pages and scheduling, without a model.
#include "runtime/scheduler.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "base/error.h"
#include "runtime/sampling.h"

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

PageTokens page_of(int32_t first) {
  PageTokens tokens;
  for (int32_t& t : tokens) t = first++;
  return tokens;
}

// What find_prefix says of these pages' tokens in a row; gives the uses back.
std::vector<int32_t> found(PageAllocator& pages, std::vector<PageTokens> text, uint64_t salt = 0,
                           size_t extra = 0) {
  std::vector<int32_t> tokens, out;
  for (const PageTokens& t : text) tokens.insert(tokens.end(), t.begin(), t.end());
  tokens.insert(tokens.end(), extra, 7);
  pages.find_prefix(salt, tokens, out);
  std::vector<int32_t> copy = out;
  pages.release(copy);
  return out;
}

// Takes pages and publishes them one after the other.
std::vector<int32_t> published(PageAllocator& pages, const std::vector<PageTokens>& text, uint64_t salt = 0) {
  std::vector<int32_t> out;
  EXPECT_TRUE(pages.allocate(static_cast<int64_t>(text.size()), out));
  for (size_t i = 0; i < text.size(); ++i)
    out[i] = pages.publish(salt, i == 0 ? -1 : out[i - 1], text[i], out[i]);
  return out;
}

TEST(PrefixPages, AreFoundByAllTheirTokens) {
  PageAllocator pages(8);
  std::vector<int32_t> a = published(pages, {page_of(0), page_of(100), page_of(200)});
  EXPECT_EQ(found(pages, {page_of(0), page_of(100), page_of(200)}), a);
  EXPECT_EQ(found(pages, {page_of(0), page_of(100)}, 0, 15), std::vector<int32_t>(a.begin(), a.begin() + 2));
  EXPECT_EQ(found(pages, {page_of(0), page_of(200)}), std::vector<int32_t>(a.begin(), a.begin() + 1));
  EXPECT_TRUE(found(pages, {page_of(100)}).empty()) << "a page counts only after what it followed";
  PageTokens almost = page_of(0);
  almost[15] = 3;
  EXPECT_TRUE(found(pages, {almost}).empty());
  EXPECT_TRUE(found(pages, {page_of(0)}, 1).empty()) << "another salt";
  std::vector<int32_t> b = published(pages, {page_of(0)}, 1);
  EXPECT_NE(a[0], b[0]);
  pages.release(a);
  pages.release(b);
  EXPECT_EQ(pages.available(), 8);
  EXPECT_EQ(pages.kept(), 4);
}

TEST(PrefixPages, OfTheSameTokensBecomeOne) {
  PageAllocator pages(4);
  std::vector<int32_t> a = published(pages, {page_of(0), page_of(50)});
  std::vector<int32_t> b = published(pages, {page_of(0), page_of(60)});
  EXPECT_EQ(a[0], b[0]);
  EXPECT_NE(a[1], b[1]);
  EXPECT_EQ(pages.available(), 1);
  pages.release(a);
  EXPECT_EQ(pages.available(), 2);
  EXPECT_EQ(found(pages, {page_of(0), page_of(60)}), b) << "still used";
  pages.release(b);
  EXPECT_EQ(pages.available(), 4);
}

TEST(PrefixPages, TheLeastRecentlyUsedIsEvictedFirstAndNeverBeforeWhatFollowsIt) {
  PageAllocator pages(5);
  std::vector<int32_t> a = published(pages, {page_of(0), page_of(1), page_of(2)}),
                       b = published(pages, {page_of(9)});
  pages.release(a);
  pages.release(b);
  found(pages, {page_of(0)});  // used last
  std::vector<int32_t> taken;
  ASSERT_TRUE(pages.allocate(2, taken));  // the free one, then the end of a
  EXPECT_EQ(found(pages, {page_of(0), page_of(1), page_of(2)}).size(), 2u);
  ASSERT_TRUE(pages.allocate(1, taken));
  EXPECT_EQ(found(pages, {page_of(9)}).size(), 0u) << "not used since it was released";
  ASSERT_TRUE(pages.allocate(1, taken));
  EXPECT_EQ(found(pages, {page_of(0), page_of(1)}).size(), 1u);
  ASSERT_TRUE(pages.allocate(1, taken));
  EXPECT_EQ(pages.available(), 0);
  EXPECT_FALSE(pages.allocate(1, taken));
  EXPECT_TRUE(found(pages, {page_of(0)}).empty());
  pages.release(taken);
  EXPECT_EQ(pages.available(), 5);
  EXPECT_EQ(pages.kept(), 0);
}

// Random traffic against a plain model of it: every page is used, kept or free, and a prefix found is one
// published.
TEST(PrefixPages, RandomTraffic) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    PageAllocator pages(12);
    std::map<std::vector<int32_t>, int32_t>
        contents;  // by all tokens up to the page's end; what was handed out last
    std::vector<std::vector<int32_t>> live, texts;
    uint64_t draws = 0;
    const auto below = [&](int n) { return static_cast<int>(uniform_at(seed, draws++) * n); };
    for (int round = 0; round < 400; ++round) {
      if (!live.empty() && below(2) == 0) {
        const size_t i = static_cast<size_t>(below(static_cast<int>(live.size())));
        pages.release(live[i]);
        live.erase(live.begin() + static_cast<long>(i));
      } else {
        std::vector<int32_t> text, mine;
        for (int p = 1 + below(4); p > 0; --p) {
          const PageTokens t = page_of(below(2) * 16);
          text.insert(text.end(), t.begin(), t.end());
        }
        pages.find_prefix(0, text, mine);
        for (size_t p = 0; p < mine.size(); ++p)
          ASSERT_EQ(contents.at({text.begin(), text.begin() + 16 * static_cast<long>(p + 1)}), mine[p]);
        const size_t from = mine.size();
        if (!pages.allocate(static_cast<int64_t>(text.size() / 16 - from), mine)) {
          pages.release(mine);
          continue;
        }
        for (size_t p = from; p < mine.size(); ++p) {
          std::erase_if(contents, [&](const auto& entry) { return entry.second == mine[p]; });  // evicted
          PageTokens t;
          std::copy_n(text.begin() + 16 * static_cast<long>(p), 16, t.begin());
          mine[p] = pages.publish(0, p == 0 ? -1 : mine[p - 1], t, mine[p]);
          contents[{text.begin(), text.begin() + 16 * static_cast<long>(p + 1)}] = mine[p];
        }
        live.push_back(mine);
      }
      std::set<int32_t> used;
      for (const auto& l : live) used.insert(l.begin(), l.end());
      ASSERT_EQ(pages.available(), 12 - static_cast<int64_t>(used.size()));
    }
    for (auto& l : live) pages.release(l);
    EXPECT_EQ(pages.available(), 12);
  }
}

std::unique_ptr<Sequence> sequence(int64_t id, size_t prompt, int64_t max_tokens, int32_t token = 1,
                                   int32_t n = 1) {
  const auto request = std::make_shared<Request>();
  request->prompt.assign(prompt, token);
  auto leader = std::make_unique<Sequence>(id, request, max_tokens, 1000);
  for (int32_t i = 1; i < n; ++i)
    leader->siblings.push_back(std::make_unique<Sequence>(id + i, request, max_tokens, 1000, i));
  return leader;
}

Sequence* find(Scheduler& scheduler, int64_t id) {
  Sequence* found = nullptr;
  scheduler.for_each([&](Sequence& s) {
    if (s.id == id) found = &s;
  });
  return found;
}

using Plan = std::vector<std::pair<int64_t, int64_t>>;  // id, tokens

// Plans a step and runs it: pending tokens go to the cache, and a sequence without any left gets a new one,
// different for each.
Plan run_step(Scheduler& scheduler, int64_t prompt_tokens = 1000) {
  Plan plan;
  for (const Slice& slice : scheduler.plan(prompt_tokens)) {
    Sequence& s = *slice.sequence;
    plan.emplace_back(s.id, slice.tokens);
    const bool last = slice.last();
    scheduler.advance(slice);
    if (last) s.tokens.push_back(500 + static_cast<int32_t>(s.id));
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
  find(scheduler, 0)->finished = FinishReason::kStop;
  EXPECT_EQ(scheduler.take_finished().size(), 1u);
  EXPECT_EQ(run_step(scheduler), (Plan{{1, 1}, {2, 2}}));
}

TEST(Scheduler, PromptsTakeNoMoreThanTheyMayBesideDecodes) {
  Scheduler scheduler(100, 50, 4);
  scheduler.submit(sequence(0, 4, 20));
  scheduler.submit(sequence(1, 60, 20));
  EXPECT_EQ(run_step(scheduler, 5), (Plan{{0, 4}, {1, 46}})) << "nobody is waiting for tokens yet";
  EXPECT_EQ(run_step(scheduler, 5), (Plan{{0, 1}, {1, 5}}));
  EXPECT_EQ(run_step(scheduler, 5), (Plan{{0, 1}, {1, 5}}));
}

// A short request behind a long one waits: the long one would starve otherwise.
TEST(Scheduler, AdmissionWaitsForPagesAndKeepsTheOrder) {
  Scheduler scheduler(4, 200, 8);
  scheduler.submit(sequence(0, 20, 12, 1));  // 2 pages
  scheduler.submit(sequence(1, 40, 8, 2));   // 3 pages
  scheduler.submit(sequence(2, 3, 5, 3));    // 1 page
  EXPECT_EQ(run_step(scheduler), (Plan{{0, 20}}));
  EXPECT_EQ(run_step(scheduler), (Plan{{0, 1}}));
  EXPECT_EQ(scheduler.pages().available(), 2);
  find(scheduler, 0)->finished = FinishReason::kLength;
  const auto finished = scheduler.take_finished();
  ASSERT_EQ(finished.size(), 1u);
  EXPECT_TRUE(finished[0]->pages.empty());
  EXPECT_EQ(run_step(scheduler), (Plan{{1, 40}, {2, 3}}));
  EXPECT_EQ(scheduler.pages().available(), 0);
}

TEST(Scheduler, TheYoungestGivesItsPagesToTheOldestAndGoesOnLater) {
  Scheduler scheduler(4, 200, 8);
  scheduler.submit(sequence(0, 16, 40, 1));
  scheduler.submit(sequence(1, 15, 40, 2));
  scheduler.submit(sequence(2, 3, 5, 3));
  EXPECT_EQ(run_step(scheduler), (Plan{{0, 16}, {1, 15}})) << "one page each, and one each to grow";
  for (int i = 0; i < 2; ++i) EXPECT_EQ(run_step(scheduler), (Plan{{0, 1}, {1, 1}}));
  EXPECT_EQ(scheduler.pages().available(), 0);
  for (int i = 0; i < 14; ++i) EXPECT_EQ(run_step(scheduler), (Plan{{0, 1}, {1, 1}}));
  EXPECT_EQ(run_step(scheduler), (Plan{{0, 1}})) << "0 needs a third page";
  EXPECT_EQ(scheduler.preemptions(), 1);
  EXPECT_EQ(scheduler.running(), 1);
  EXPECT_EQ(scheduler.waiting(), 2);
  EXPECT_EQ(find(scheduler, 1)->size(), 15 + 17) << "its tokens are kept";
  find(scheduler, 0)->finished = FinishReason::kStop;
  scheduler.take_finished();
  // The first of its pages was not overwritten.
  EXPECT_EQ(run_step(scheduler), (Plan{{1, 16}, {2, 3}}));
}

TEST(Scheduler, APrefixInTheCacheIsNotReadAgain) {
  Scheduler scheduler(20, 200, 8);
  scheduler.submit(sequence(0, 40, 20));
  run_step(scheduler);
  scheduler.submit(sequence(1, 45, 20));
  EXPECT_EQ(run_step(scheduler), (Plan{{0, 1}, {1, 45 - 32}}));
  EXPECT_EQ(find(scheduler, 1)->reused, 32);
  EXPECT_EQ(find(scheduler, 1)->pages[1], find(scheduler, 0)->pages[1]);
  // The last token is run even where its page is known.
  scheduler.submit(sequence(2, 32, 20));
  EXPECT_EQ(run_step(scheduler), (Plan{{0, 1}, {1, 1}, {2, 16}}));
  for (int64_t id = 0; id < 3; ++id) find(scheduler, id)->finished = FinishReason::kStop;
  scheduler.take_finished();
  EXPECT_EQ(scheduler.pages().available(), 20);

  Scheduler alone(20, 200, 8, false);
  alone.submit(sequence(0, 40, 20));
  run_step(alone);
  alone.submit(sequence(1, 45, 20));
  EXPECT_EQ(run_step(alone), (Plan{{0, 1}, {1, 45}}));
}

TEST(Scheduler, AnswersToOnePromptWaitUntilItIsRead) {
  Scheduler scheduler(20, 20, 8);
  scheduler.submit(sequence(0, 36, 20, 1, 3));
  scheduler.submit(sequence(9, 4, 20, 2));
  EXPECT_EQ(scheduler.waiting(), 4);
  EXPECT_EQ(run_step(scheduler), (Plan{{0, 20}}));
  EXPECT_EQ(run_step(scheduler), (Plan{{0, 16}, {9, 4}}));
  EXPECT_EQ(run_step(scheduler), (Plan{{0, 1}, {9, 1}, {1, 4}, {2, 4}}));
  find(scheduler, 1)->finished = FinishReason::kStop;
  EXPECT_EQ(scheduler.take_finished().size(), 1u);
}

TEST(Scheduler, AnswersWhoseFirstOneIsGoneReadForThemselves) {
  Scheduler scheduler(20, 20, 8);
  scheduler.submit(sequence(0, 36, 20, 1, 3));
  run_step(scheduler);
  find(scheduler, 0)->finished = FinishReason::kCancelled;
  find(scheduler, 2)->finished = FinishReason::kCancelled;
  EXPECT_EQ(scheduler.take_finished().size(), 2u);
  EXPECT_EQ(run_step(scheduler), (Plan{{1, 20}}));
}

TEST(Scheduler, FinishedWhileWaitingNeverRuns) {
  Scheduler scheduler(4, 10, 1);
  scheduler.submit(sequence(0, 2, 2));
  scheduler.submit(sequence(1, 2, 2));
  run_step(scheduler);
  find(scheduler, 1)->finished = FinishReason::kCancelled;
  EXPECT_EQ(scheduler.take_finished().front()->id, 1);
  EXPECT_EQ(find(scheduler, 1), nullptr);
  EXPECT_EQ(scheduler.waiting(), 0);
  EXPECT_EQ(run_step(scheduler), (Plan{{0, 1}}));
}

}  // namespace
}  // namespace awq
