#include "base/log.h"

#include <mutex>

namespace awq {
namespace {
std::mutex mutex;
std::function<void(Level, std::string_view)> sink;
}  // namespace

void set_log_sink(std::function<void(Level, std::string_view)> new_sink) {
  std::lock_guard lock(mutex);
  sink = std::move(new_sink);
}

void log_line(Level level, std::string_view line) {
  std::lock_guard lock(mutex);
  if (sink) sink(level, line);
}

}  // namespace awq
