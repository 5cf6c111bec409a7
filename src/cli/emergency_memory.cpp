// operator new of the program. Destructors may need memory too (nlohmann's JSON flattens itself while it is
// destroyed), and there a failed allocation would end the process without a word. So when malloc fails,
// moderate requests are served from a reserve and the job is told to stop at its next step; the second half
// of the reserve is for the way out.
#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <exception>
#include <new>

#include "base/progress.h"

namespace {

constexpr size_t kReserve = size_t{16} << 20;  // never touched, so never resident, until it is needed
constexpr size_t kLargest = size_t{1} << 20;
constexpr size_t kAlignment = alignof(std::max_align_t);
alignas(kAlignment) char reserve[kReserve];
std::atomic<size_t> used{0};

void* from_reserve(size_t bytes) {
  if (bytes > kLargest) return nullptr;
  const size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  const size_t limit = std::uncaught_exceptions() > 0 ? kReserve : kReserve / 2;
  size_t at = used.load();
  do
    if (at + rounded > limit) return nullptr;
  while (!used.compare_exchange_weak(at, at + rounded));
  return reserve + at;
}

}  // namespace

void* operator new(size_t bytes) {
  if (void* p = std::malloc(bytes > 0 ? bytes : 1)) return p;
  awq::note_out_of_memory();
  if (void* p = from_reserve(bytes)) return p;
  throw std::bad_alloc();
}

void operator delete(void* p) noexcept {
  if (p < static_cast<void*>(reserve) || p >= static_cast<void*>(reserve + kReserve)) std::free(p);
}
void operator delete(void* p, size_t) noexcept { operator delete(p); }
