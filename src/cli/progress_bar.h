// Draws base/progress.h on standard error: on a terminal one line that is redrawn (stage, bar, percent, rate,
// time left), elsewhere a plain line every 10 seconds. Log lines go through here too, so that they do not cut
// the bar. All functions may be called from several threads.
#pragma once
#include <cstdio>
#include <mutex>
#include <string>
#include <string_view>

#include "base/log.h"
#include "base/progress.h"

namespace awq::cli {

enum class ProgressStyle { kBar, kLines, kNone };
// mode: auto, plain or none.
ProgressStyle progress_style(std::string_view mode, std::FILE* out);

class ProgressBar {
 public:
  explicit ProgressBar(ProgressStyle style, std::FILE* out) : style_(style), out_(out) {}
  ~ProgressBar() { finish(); }
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  void update(const Progress& progress);
  void line(std::string_view text);  // a line of its own, above the bar
  void finish();                     // ends the bar; also called when the next stage begins

 private:
  void begin_stage(const Progress& progress, double now);
  void end_stage(double now);
  void draw(double now);
  std::string numbers(double now) const;

  const ProgressStyle style_;
  std::FILE* const out_;
  std::mutex mutex_;
  bool active_ = false;
  std::string stage_, unit_;
  double done_ = 0, total_ = 0;
  double stage_start_ = 0,
         stage_done_ = 0;  // seconds; units already done when the stage was first seen (resumed jobs)
  double last_drawn_ = 0, last_line_ = 0;  // seconds
};

}  // namespace awq::cli
