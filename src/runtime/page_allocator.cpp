#include "runtime/page_allocator.h"

#include "base/error.h"
#include "model/model.h"

namespace awq {

PageAllocator::PageAllocator(int64_t pages) : used_(static_cast<size_t>(pages), 0) {
  for (int64_t i = pages - 1; i >= 0; --i) free_.push_back(static_cast<int32_t>(i));
}

bool PageAllocator::allocate(int64_t n, std::vector<int32_t>& out) {
  if (n > available()) return false;
  for (int64_t i = 0; i < n; ++i) {
    const int32_t page = free_.back();
    free_.pop_back();
    used_[static_cast<size_t>(page)] = 1;
    out.push_back(page);
  }
  return true;
}

void PageAllocator::release(std::vector<int32_t>& pages) {
  for (size_t i = pages.size(); i-- > 0;) {
    uint8_t& used = used_.at(static_cast<size_t>(pages[i]));
    check_internal(used != 0, "a page of the key/value cache was released twice");
    used = 0;
    free_.push_back(pages[i]);
  }
  pages.clear();
}

int64_t PageAllocator::pages_for(int64_t tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }

}  // namespace awq
