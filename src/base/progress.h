// Progress of a long job, as the library reports it; cli/ draws it. Also the one place where a job learns
// that the user wants it to stop.
#pragma once
#include <functional>
#include <string_view>

namespace awq {

struct Progress {
  std::string_view stage;  // "calibrate", "quantize", "check", ...
  double done = 0;         // in units
  double total = 0;        // in units; 0 when unknown
  std::string_view unit;   // "blocks", "tokens", "bytes"
};
using ProgressFn = std::function<void(const Progress&)>;

// Set from a signal handler (async-signal-safe); long jobs call check_cancelled() between steps, which throws
// Error{kCancelled}.
void request_cancel();
bool cancel_requested();
void clear_cancel();
void check_cancelled();

// Memory ran out although nothing has failed yet: from now on check_cancelled() throws Error{kNoMemory}. Allocates nothing.
void note_out_of_memory();

}  // namespace awq
