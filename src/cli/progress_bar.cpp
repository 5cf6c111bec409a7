#include "cli/progress_bar.h"

#include <fmt/core.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "base/system.h"

namespace awq::cli {
namespace {

constexpr double kRedraw = 0.1, kLineEvery = 10;  // seconds

std::string amount(double units, std::string_view unit) {
  if (unit == "bytes") return human_bytes(units);
  return units >= 1e6 ? fmt::format("{:.2f} M", units / 1e6) : fmt::format("{:.0f}", units);
}

std::string rate_text(double rate, std::string_view unit) {
  if (unit == "bytes") return human_bytes(rate) + "/s";
  return rate >= 100 ? fmt::format("{:.0f} {}/s", rate, unit) : fmt::format("{:.2f} {}/s", rate, unit);
}

size_t terminal_width(std::FILE* out) {
  winsize size{};
  return ::ioctl(::fileno(out), TIOCGWINSZ, &size) == 0 && size.ws_col > 20 ? size.ws_col : 80;
}

}  // namespace

ProgressStyle progress_style(std::string_view mode, std::FILE* out) {
  if (mode == "none") return ProgressStyle::kNone;
  const char* term = std::getenv("TERM");
  const bool terminal = ::isatty(::fileno(out)) != 0 && term != nullptr && std::string_view(term) != "dumb";
  return mode == "auto" && terminal ? ProgressStyle::kBar : ProgressStyle::kLines;
}

void ProgressBar::update(const Progress& progress) {
  if (style_ == ProgressStyle::kNone) return;
  std::lock_guard lock(mutex_);
  const double now = now_seconds();
  if (!active_ || progress.stage != stage_) begin_stage(progress, now);
  done_ = progress.done;
  total_ = progress.total;
  const bool last = total_ > 0 && done_ >= total_;
  if (style_ == ProgressStyle::kBar) {
    if (last || now - last_drawn_ >= kRedraw) draw(now);
  } else if (now - last_line_ >= kLineEvery) {
    last_line_ = now;
    fmt::print(out_, "{} {}\n", stage_, numbers(now));
    std::fflush(out_);
  }
}

void ProgressBar::line(std::string_view text) {
  std::lock_guard lock(mutex_);
  if (active_ && style_ == ProgressStyle::kBar) fmt::print(out_, "\r\x1b[K");
  fmt::print(out_, "{}\n", text);
  if (active_ && style_ == ProgressStyle::kBar) draw(now_seconds());
  std::fflush(out_);
}

void ProgressBar::finish() {
  std::lock_guard lock(mutex_);
  if (active_) end_stage(now_seconds());
}

void ProgressBar::begin_stage(const Progress& progress, double now) {
  if (active_) end_stage(now);
  active_ = true;
  stage_ = progress.stage;
  unit_ = progress.unit;
  stage_start_ = now;
  stage_done_ = progress.done;
  last_drawn_ = 0;
  if (last_line_ == 0) last_line_ = now;  // the first line comes after 10 seconds, so short jobs print none
}

void ProgressBar::end_stage(double now) {
  active_ = false;
  if (style_ != ProgressStyle::kBar) return;
  fmt::print(out_, "\r\x1b[K{:<12} {}{} in {}\n", stage_, amount(done_, unit_),
             unit_ == "bytes" ? "" : " " + unit_, human_seconds(now - stage_start_));
  std::fflush(out_);
}

// "12/30 blocks  40 %  0.31 blocks/s  58 s left"
std::string ProgressBar::numbers(double now) const {
  const std::string unit = unit_ == "bytes" ? "" : " " + unit_;
  std::string text = amount(done_, unit_);
  if (total_ > 0) text += "/" + amount(total_, unit_);
  text += unit;
  if (total_ > 0) text += fmt::format("  {:.0f} %", 100 * std::clamp(done_ / total_, 0.0, 1.0));
  const double elapsed = now - stage_start_;
  if (elapsed <= 0 || done_ <= stage_done_) return text;
  const double rate = (done_ - stage_done_) / elapsed;
  text += "  " + rate_text(rate, unit_);
  if (total_ > done_) text += fmt::format("  {} left", human_seconds((total_ - done_) / rate));
  return text;
}

void ProgressBar::draw(double now) {
  last_drawn_ = now;
  const std::string text = numbers(now);
  const size_t width = terminal_width(out_) - 1;
  const size_t rest = stage_.size() + text.size() + 5;
  const size_t cells = width > rest + 5 ? std::min<size_t>(20, width - rest) : 0;
  std::string bar;
  if (cells > 0 && total_ > 0) {
    const auto full = static_cast<size_t>(std::clamp(done_ / total_, 0.0, 1.0) * static_cast<double>(cells));
    bar = " [" + std::string(full, '#') + std::string(cells - full, '.') + "]";
  }
  std::string line = fmt::format("{}{}  {}", stage_, bar, text);
  fmt::print(out_, "\r\x1b[K{}", std::string_view(line).substr(0, width));
  std::fflush(out_);
}

}  // namespace awq::cli
