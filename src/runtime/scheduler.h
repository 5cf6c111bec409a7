// Which tokens of which sequences a step runs. Every running decode comes first, so that a long prompt never
// stalls those who already read; what is left of max_batch_tokens goes to prompts, in chunks, first come
// first served. A sequence is admitted when its pages for prompt and answer are free, so that no running one
// ever has to be put out.
#pragma once
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "runtime/page_allocator.h"
#include "runtime/sequence.h"

namespace awq {

struct Slice {
  Sequence* sequence = nullptr;
  int64_t tokens = 0;                                          // the next so many of its pending ones
  bool last() const { return tokens == sequence->pending(); }  // its logits are wanted
};

class Scheduler {
 public:
  // max_sequences <= max_batch_tokens, so that all decodes fit in a step.
  Scheduler(int64_t pages, int64_t max_batch_tokens, int64_t max_sequences);

  void submit(std::unique_ptr<Sequence> sequence);
  // The next step; empty when nothing waits or runs.
  std::vector<Slice> plan();
  // Takes the finished ones out and frees their pages.
  std::vector<std::unique_ptr<Sequence>> take_finished();
  Sequence* find(int64_t id) const;  // null when it is not here (any more)

  int64_t waiting() const { return static_cast<int64_t>(waiting_.size()); }
  int64_t running() const { return static_cast<int64_t>(running_.size()); }
  const PageAllocator& pages() const { return pages_; }

 private:
  bool admit_next();

  PageAllocator pages_;
  int64_t max_batch_tokens_, max_sequences_;
  std::deque<std::unique_ptr<Sequence>> waiting_;
  std::vector<std::unique_ptr<Sequence>> running_;  // in order of admission
};

}  // namespace awq
