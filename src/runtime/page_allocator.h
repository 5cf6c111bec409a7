// Which pages of a KvCache are free. A page holds kPageTokens tokens of one sequence, over all layers.
#pragma once
#include <cstdint>
#include <vector>

namespace awq {

class PageAllocator {
 public:
  explicit PageAllocator(int64_t pages);

  int64_t pages() const { return static_cast<int64_t>(used_.size()); }
  int64_t available() const { return static_cast<int64_t>(free_.size()); }
  // Appends n page numbers to `out`, or leaves it alone and returns false when fewer are free. A page
  // released last is handed out first: it is the likeliest to be in the processor's caches.
  bool allocate(int64_t n, std::vector<int32_t>& out);
  // Gives all of `pages` back and clears it. kInternal when one was free already.
  void release(std::vector<int32_t>& pages);

  // Pages that hold so many tokens.
  static int64_t pages_for(int64_t tokens);

 private:
  std::vector<int32_t> free_;  // a stack
  std::vector<uint8_t> used_;  // [pages]
};

}  // namespace awq
