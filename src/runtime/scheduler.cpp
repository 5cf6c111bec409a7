#include "runtime/scheduler.h"

#include <algorithm>

#include "base/system.h"

namespace awq {

Scheduler::Scheduler(int64_t pages, int64_t max_batch_tokens, int64_t max_sequences, bool share_prefixes)
    : pages_(pages),
      max_batch_tokens_(max_batch_tokens),
      max_sequences_(max_sequences),
      share_prefixes_(share_prefixes) {}

void Scheduler::submit(std::unique_ptr<Sequence> sequence) { waiting_.push_back(std::move(sequence)); }

int64_t Scheduler::waiting() const {
  size_t n = waiting_.size();
  for (const auto& s : running_) n += s->siblings.size();
  for (const auto& s : waiting_) n += s->siblings.size();
  return static_cast<int64_t>(n);
}

// The prompt has been read, or never will be: its pages are published, and the siblings go on from them.
void Scheduler::release_siblings() {
  for (const auto& s : running_) {
    if (s->siblings.empty() || s->past < s->prompt_size()) continue;
    for (size_t i = s->siblings.size(); i-- > 0;) waiting_.push_front(std::move(s->siblings[i]));
    s->siblings.clear();
  }
}

bool Scheduler::admit_next() {
  if (waiting_.empty() || running() >= max_sequences_) return false;
  Sequence& next = *waiting_.front();
  // The last token is always run: its logits are wanted. So are all of a prompt whose log-probabilities are.
  if (share_prefixes_ && !next.wants_prompt_logprobs())
    pages_.find_prefix(next.request->cache_salt, std::span(next.tokens).first(next.tokens.size() - 1),
                       next.pages);
  const auto found = static_cast<int64_t>(next.pages.size());
  const int64_t needed = PageAllocator::pages_for(next.size()) - found;
  const auto growing =
      std::count_if(running_.begin(), running_.end(), [](const auto& s) { return s->may_grow(); });
  if (pages_.available() < needed + growing || !pages_.allocate(needed, next.pages)) {
    pages_.release(next.pages);
    return false;
  }
  next.published = found;
  next.past = found * kPageTokens;
  if (!next.reused) next.reused = next.past;
  if (next.started_at == 0) next.started_at = now_seconds();
  running_.push_back(std::move(waiting_.front()));
  waiting_.pop_front();
  return true;
}

void Scheduler::preempt_last() {
  Sequence& last = *running_.back();
  pages_.release(last.pages);
  last.published = last.past = last.draft_past = 0;
  waiting_.push_front(std::move(running_.back()));
  running_.pop_back();
  ++preemptions_;
}

// Pages for all tokens of running_[index], at the cost of those admitted after it. False: it was preempted
// itself.
bool Scheduler::grow(size_t index) {
  Sequence& s = *running_[index];
  const int64_t needed = PageAllocator::pages_for(s.size());
  while (static_cast<int64_t>(s.pages.size()) < needed) {
    if (pages_.allocate(needed - static_cast<int64_t>(s.pages.size()), s.pages)) break;
    preempt_last();
    if (running_.size() <= index) return false;
  }
  return true;
}

// How many of the guesses wanted have room; nobody gives up pages for them.
int64_t Scheduler::grow_for_drafts(Sequence& s) {
  if (s.draft_wanted == 0) return 0;
  const auto room = [&] { return static_cast<int64_t>(s.pages.size()) * kPageTokens - s.size(); };
  while (room() < s.draft_wanted && pages_.allocate(1, s.pages)) {
  }
  return std::min(s.draft_wanted, room());
}

std::vector<Slice> Scheduler::plan(int64_t prompt_tokens) {
  release_siblings();
  std::vector<Slice> slices;
  for (size_t i = 0; i < running_.size(); ++i) {
    if (running_[i]->pending() != 1) continue;
    if (!grow(i)) break;
    slices.push_back({running_[i].get(), 1, 1});
  }
  const auto decodes = static_cast<int64_t>(slices.size());
  int64_t room = max_batch_tokens_ - decodes;
  for (Slice& slice : slices) {
    slice.drafts = std::min(room, grow_for_drafts(*slice.sequence));
    room -= slice.drafts;
  }
  if (decodes > 0) room = std::min(room, prompt_tokens);
  const auto take = [&](Sequence& sequence) {
    const int64_t tokens = std::min(sequence.pending(), room);
    if (tokens > 0) slices.push_back({&sequence, tokens, sequence.pending()});
    room -= tokens;
  };
  for (const auto& sequence : running_)
    if (sequence->pending() > 1) take(*sequence);
  while (room > 0 && admit_next()) take(*running_.back());
  return slices;
}

void Scheduler::advance(const Slice& slice, int64_t right) {
  Sequence& s = *slice.sequence;
  s.past += slice.tokens + right;
  if (!share_prefixes_) return;
  for (; (s.published + 1) * kPageTokens <= s.past; ++s.published) {
    PageTokens tokens;
    std::copy_n(s.tokens.begin() + s.published * kPageTokens, kPageTokens, tokens.begin());
    int32_t& page = s.pages[static_cast<size_t>(s.published)];
    const int32_t previous = s.published == 0 ? -1 : s.pages[static_cast<size_t>(s.published) - 1];
    page = pages_.publish(s.request->cache_salt, previous, tokens, page);
  }
}

std::vector<std::unique_ptr<Sequence>> Scheduler::take_finished() {
  // Siblings of one that ends before its prompt was read have nothing to go on from: they queue in its place.
  const auto free_siblings = [&](auto& from) {
    std::vector<std::unique_ptr<Sequence>> freed;
    for (const auto& s : from) {
      if (!s->finished && std::none_of(s->siblings.begin(), s->siblings.end(),
                                       [](const auto& sibling) { return sibling->finished.has_value(); }))
        continue;
      for (auto& sibling : s->siblings) freed.push_back(std::move(sibling));
      s->siblings.clear();
    }
    for (size_t i = freed.size(); i-- > 0;) waiting_.push_front(std::move(freed[i]));
  };
  free_siblings(running_);
  free_siblings(waiting_);
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

void Scheduler::for_each_running(const std::function<void(Sequence&)>& visit) {
  for (const auto& s : running_) visit(*s);
}

void Scheduler::for_each(const std::function<void(Sequence&)>& visit) {
  const auto both = [&](const auto& from) {
    for (const auto& s : from) {
      visit(*s);
      for (const auto& sibling : s->siblings) visit(*sibling);
    }
  };
  both(running_);
  both(waiting_);
}

}  // namespace awq
