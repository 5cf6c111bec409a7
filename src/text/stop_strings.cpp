#include "text/stop_strings.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace awq {

StopStrings::StopStrings(std::vector<std::string> stops) {
  for (std::string& text : stops) {
    if (text.empty())
      fail(Code::kBadArgument, "stop: expected strings of at least 1 character, got an empty one");
    Stop stop;
    stop.text = std::move(text);
    stop.borders.assign(stop.text.size() + 1, 0);
    for (size_t i = 1, border = 0; i < stop.text.size(); ++i) {
      while (border > 0 && stop.text[i] != stop.text[border]) border = stop.borders[border];
      if (stop.text[i] == stop.text[border]) ++border;
      stop.borders[i + 1] = border;
    }
    stops_.push_back(std::move(stop));
  }
}

std::string StopStrings::push(std::string_view piece) {
  if (stopped()) return {};
  for (const char c : piece) {
    held_ += c;
    for (Stop& stop : stops_) {
      while (stop.matched > 0 && c != stop.text[stop.matched]) stop.matched = stop.borders[stop.matched];
      if (c == stop.text[stop.matched]) ++stop.matched;
      if (stop.matched == stop.text.size() && stop.text.size() > found_.size()) found_ = stop.text;
      if (stop.matched == stop.text.size()) stop.matched = stop.borders[stop.matched];
    }
    if (stopped()) {
      held_.resize(held_.size() - found_.size());
      return std::exchange(held_, {});
    }
  }
  size_t pending = 0;
  for (const Stop& stop : stops_) pending = std::max(pending, stop.matched);
  std::string certain = held_.substr(0, held_.size() - pending);
  held_.erase(0, certain.size());
  return certain;
}

std::string StopStrings::flush() {
  for (Stop& stop : stops_) stop.matched = 0;
  return std::exchange(held_, {});
}

}  // namespace awq
