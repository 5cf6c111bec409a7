// Where attention cuts a sequence's keys when sums must not depend on the batch: at multiples of kPartKeys positions from its
// beginning, whoever computes a part and whatever else the step holds. A part is summed page by page, parts are joined in order.
#pragma once
#include <cstdint>

#include "kernels/cuda/layout.h"

namespace awq::cuda {

constexpr int kCachePage = 16;  // tokens
constexpr int kPartKeys = 128, kPartPages = kPartKeys / kCachePage;

// What a token at `position` sees: keys from `first` on, in parts [begin, end); window 0: all before it.
struct KeyRange {
  int first, begin, end;
  AWQ_HOST_DEVICE KeyRange(int position, int window)
      : first(window > 0 && position >= window ? position - window + 1 : 0), begin(first / kPartKeys), end(position / kPartKeys + 1) {}
};

// Parts of several sequences lie one behind the other. Of the sequence `index`, whose page numbers begin at `pages` of those of all,
// part 0 has this slot; so many slots hold all parts.
AWQ_HOST_DEVICE inline int first_part_slot(int pages, int index) { return pages / kPartPages + index; }
inline int64_t part_slots(int64_t pages, int64_t sequences) { return pages / kPartPages + sequences; }

}  // namespace awq::cuda
