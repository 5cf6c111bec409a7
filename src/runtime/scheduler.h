// Which tokens of which sequences a step runs. Every running decode comes first, so that a long prompt never
// stalls those who already read; what is left goes to prompts, in chunks, first come first served.
//
// A sequence is admitted when its tokens so far fit beside a page for each running one. It takes a page more
// whenever it grows into one. When none is left, the sequence admitted last gives up its pages and waits at
// the head of the queue: its tokens are kept and read again later, so that it ends as it would have. The
// oldest one always goes on, since no request is accepted that needs more pages than there are.
#pragma once
#include <cstdint>
#include <deque>
#include <functional>
#include <limits>
#include <memory>
#include <vector>

#include "runtime/page_allocator.h"
#include "runtime/sequence.h"

namespace awq {

struct Slice {
  Sequence* sequence = nullptr;
  int64_t tokens = 0;   // the next so many of its pending ones
  int64_t pending = 0;  // when planned
  int64_t drafts = 0;   // so many guesses behind them, when last
  bool last() const { return tokens == pending; }  // its logits are wanted
};

class Scheduler {
 public:
  // max_sequences <= max_batch_tokens, so that all decodes fit in a step. share_prefixes: sequences go on
  // from pages of others that begin with the same tokens.
  Scheduler(int64_t pages, int64_t max_batch_tokens, int64_t max_sequences, bool share_prefixes = true);

  void submit(std::unique_ptr<Sequence> sequence);
  // The next step; empty when nothing waits or runs. At most so many tokens of prompts beside running
  // decodes.
  std::vector<Slice> plan(int64_t prompt_tokens = std::numeric_limits<int64_t>::max());
  // The model has run the slice: its tokens and the guesses that were right are in the cache, and those in Sequence::tokens.
  void advance(const Slice& slice, int64_t right = 0);
  // Takes the finished ones out and frees their pages.
  std::vector<std::unique_ptr<Sequence>> take_finished();
  // All that are here, waiting siblings included.
  void for_each(const std::function<void(Sequence&)>& visit);
  void for_each_running(const std::function<void(Sequence&)>& visit);

  int64_t waiting() const;
  int64_t running() const { return static_cast<int64_t>(running_.size()); }
  int64_t preemptions() const { return preemptions_; }
  const PageAllocator& pages() const { return pages_; }

 private:
  void release_siblings();
  bool admit_next();
  bool grow(size_t index);
  int64_t grow_for_drafts(Sequence& sequence);
  void preempt_last();

  PageAllocator pages_;
  int64_t max_batch_tokens_, max_sequences_;
  bool share_prefixes_;
  int64_t preemptions_ = 0;
  std::deque<std::unique_ptr<Sequence>> waiting_;
  std::vector<std::unique_ptr<Sequence>> running_;  // in order of admission
};

}  // namespace awq
