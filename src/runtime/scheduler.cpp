#include "runtime/scheduler.h"

#include <algorithm>

#include "base/system.h"

namespace awq {

Scheduler::Scheduler(int64_t pages, int64_t max_batch_tokens, int64_t max_sequences)
    : pages_(pages), max_batch_tokens_(max_batch_tokens), max_sequences_(max_sequences) {}

void Scheduler::submit(std::unique_ptr<Sequence> sequence) { waiting_.push_back(std::move(sequence)); }

bool Scheduler::admit_next() {
  if (waiting_.empty() || running() >= max_sequences_) return false;
  Sequence& next = *waiting_.front();
  if (!pages_.allocate(PageAllocator::pages_for(next.size() + next.max_tokens), next.pages)) return false;
  next.started_at = now_seconds();
  running_.push_back(std::move(waiting_.front()));
  waiting_.pop_front();
  return true;
}

std::vector<Slice> Scheduler::plan() {
  std::vector<Slice> slices;
  int64_t room = max_batch_tokens_;
  const auto take = [&](Sequence& sequence) {
    const int64_t tokens = std::min(sequence.pending(), room);
    if (tokens > 0) slices.push_back({&sequence, tokens});
    room -= tokens;
  };
  for (const auto& sequence : running_)
    if (sequence->pending() == 1) take(*sequence);
  for (const auto& sequence : running_)
    if (sequence->pending() > 1) take(*sequence);
  while (room > 0 && admit_next()) take(*running_.back());
  return slices;
}

std::vector<std::unique_ptr<Sequence>> Scheduler::take_finished() {
  std::vector<std::unique_ptr<Sequence>> out;
  const auto move_finished = [&](auto& from) {
    const auto keep =
        std::stable_partition(from.begin(), from.end(), [](const auto& s) { return !s->finished; });
    for (auto it = keep; it != from.end(); ++it) {
      pages_.release((*it)->pages);
      out.push_back(std::move(*it));
    }
    from.erase(keep, from.end());
  };
  move_finished(running_);
  move_finished(waiting_);
  return out;
}

Sequence* Scheduler::find(int64_t id) const {
  for (const auto& sequence : running_)
    if (sequence->id == id) return sequence.get();
  for (const auto& sequence : waiting_)
    if (sequence->id == id) return sequence.get();
  return nullptr;
}

}  // namespace awq
