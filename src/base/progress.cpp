#include "base/progress.h"

#include <atomic>

#include "base/error.h"

namespace awq {
namespace {
std::atomic<bool> cancelled{false}, out_of_memory{false};
static_assert(std::atomic<bool>::is_always_lock_free, "request_cancel runs in signal handlers");
}  // namespace

void request_cancel() { cancelled.store(true); }
bool cancel_requested() { return cancelled.load(); }
void clear_cancel() {
  cancelled.store(false);
  out_of_memory.store(false);
}
void note_out_of_memory() { out_of_memory.store(true); }
void check_cancelled() {
  if (out_of_memory.load()) fail(Code::kNoMemory, "out of memory");
  if (cancelled.load()) fail(Code::kCancelled, "stopped by the user");
}

}  // namespace awq
