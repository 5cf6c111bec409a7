#include "runtime/page_allocator.h"

#include <algorithm>
#include <random>

#include "base/error.h"
#include "runtime/sampling.h"

namespace awq {

PageAllocator::PageAllocator(int64_t pages) : state_(static_cast<size_t>(pages)) {
  for (int64_t i = pages - 1; i >= 0; --i) free_.push_back(static_cast<int32_t>(i));
  std::random_device device;
  hash_key_ = (uint64_t{device()} << 32) | device();
}

bool PageAllocator::allocate(int64_t n, std::vector<int32_t>& out) {
  if (n > available()) return false;
  for (int64_t i = 0; i < n; ++i) out.push_back(take());
  return true;
}

int32_t PageAllocator::take() {
  int32_t page;
  if (!free_.empty()) {
    page = free_.back();
    free_.pop_back();
  } else {
    page = unused_.begin()->second;
    unused_.erase(unused_.begin());
    State& s = state(page);
    const auto [begin, end] = by_hash_.equal_range(s.hash);
    by_hash_.erase(std::find_if(begin, end, [page](const auto& entry) { return entry.second == page; }));
    s.published = false;
  }
  state(page).users = 1;
  return page;
}

void PageAllocator::use(int32_t page) {
  State& s = state(page);
  if (s.users++ == 0) unused_.erase(s.used_at);
}

void PageAllocator::release(int32_t page) {
  State& s = state(page);
  check_internal(s.users > 0, "a page of the key/value cache was released twice");
  if (--s.users > 0) return;
  if (s.published)
    unused_.emplace(s.used_at = ++clock_, page);
  else
    free_.push_back(page);
}

// Last page first: what follows a page must be evicted before it.
void PageAllocator::release(std::vector<int32_t>& pages) {
  for (size_t i = pages.size(); i-- > 0;) release(pages[i]);
  pages.clear();
}

uint64_t PageAllocator::hash_of(uint64_t salt, int32_t previous, const PageTokens& tokens) const {
  uint64_t h = mix(hash_key_ ^ salt) + static_cast<uint32_t>(previous);
  for (const int32_t token : tokens) h = mix(h + static_cast<uint32_t>(token)) + hash_key_;
  return h;
}

int32_t PageAllocator::find(uint64_t salt, int32_t previous, const PageTokens& tokens) const {
  const auto [begin, end] = by_hash_.equal_range(hash_of(salt, previous, tokens));
  for (auto it = begin; it != end; ++it) {
    const State& s = state_[static_cast<size_t>(it->second)];
    if (s.salt == salt && s.previous == previous && s.tokens == tokens) return it->second;
  }
  return -1;
}

void PageAllocator::find_prefix(uint64_t salt, std::span<const int32_t> tokens, std::vector<int32_t>& out) {
  int32_t previous = -1;
  PageTokens page_tokens;
  for (; tokens.size() >= kPageTokens; tokens = tokens.subspan(kPageTokens)) {
    std::copy_n(tokens.begin(), kPageTokens, page_tokens.begin());
    previous = find(salt, previous, page_tokens);
    if (previous < 0) return;
    use(previous);
    out.push_back(previous);
  }
}

int32_t PageAllocator::publish(uint64_t salt, int32_t previous, const PageTokens& tokens, int32_t page) {
  State& s = state(page);
  check_internal(s.users == 1 && !s.published, "a shared page of the key/value cache was published");
  const int32_t known = find(salt, previous, tokens);
  if (known >= 0) {
    use(known);
    release(page);
    return known;
  }
  s.published = true;
  s.previous = previous;
  s.salt = salt;
  s.tokens = tokens;
  s.hash = hash_of(salt, previous, tokens);
  by_hash_.emplace(s.hash, page);
  return page;
}

int64_t PageAllocator::pages_for(int64_t tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }

}  // namespace awq
