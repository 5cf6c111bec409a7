#include "base/progress.h"

#include <atomic>

#include "base/error.h"

namespace awq {
namespace {
std::atomic<bool> cancelled{false};
static_assert(std::atomic<bool>::is_always_lock_free, "request_cancel runs in signal handlers");
}  // namespace

void request_cancel() { cancelled.store(true); }
bool cancel_requested() { return cancelled.load(); }
void clear_cancel() { cancelled.store(false); }
void check_cancelled() {
  if (cancelled.load()) fail(Code::kCancelled, "stopped by the user");
}

}  // namespace awq
