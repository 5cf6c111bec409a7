// Logging sink. The library reports through here; cli/ installs the sink, by default nothing is written.
#pragma once
#include <fmt/core.h>

#include <functional>
#include <string_view>
#include <utility>

namespace awq {

enum class Level { kDebug, kInfo, kWarning };
void set_log_sink(std::function<void(Level, std::string_view)> sink);
void log_line(Level level, std::string_view line);

template <class... Args>
void log(Level level, fmt::format_string<Args...> format, Args&&... args) {
  log_line(level, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace awq
