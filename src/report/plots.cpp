// Scatter charts and heat maps as inline SVG; see charts.cpp.
#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "report/axes.h"
#include "report/html.h"

namespace awq::report {
namespace {

constexpr double kLeft = 64, kRight = kWidth - 16, kTop = 34, kBottom = 360;

struct Scale {
  double low, high, from, to;
  bool log;
  double at(double v) const {
    const double t = log ? std::log(v / low) / std::log(high / low) : (v - low) / (high - low);
    return from + t * (to - from);
  }
};

Scale x_scale(const ScatterChart& chart) {
  double low = INFINITY, high = 0;
  for (const auto& p : chart.points) low = std::min(low, p.x), high = std::max(high, p.x);
  const double margin = std::max(0.08 * (high - low), 0.02 * high);
  return {std::max(0.0, low - margin), high + margin, kLeft, kRight, false};
}

Scale y_scale(const ScatterChart& chart) {
  double low = INFINITY, high = 0;
  for (const auto& p : chart.points) {
    low = std::min(low, p.y - p.interval > 0 ? p.y - p.interval : p.y);
    high = std::max(high, p.y + p.interval);
  }
  if (!chart.log_y) return {0, high > 0 ? high * 1.08 : 1, kBottom, kTop, false};
  low = log_bound(low, false), high = log_bound(high, true);
  return {low, high > low ? high : 2 * low, kBottom, kTop, true};
}

// A label beside its point, moved down where an earlier one stands.
class Labels {
 public:
  std::string place(double x, double y, const std::string& text) {
    const double width = static_cast<double>(length_of(text)) * kCharacter;
    const bool left = x + 10 + width > kRight;
    const double begin = left ? x - 10 - width : x + 10;
    double at = y + 4;
    for (bool moved = true; moved;) {
      moved = false;
      for (const Box& b : taken_)
        if (begin < b.end && b.begin < begin + width && std::fabs(at - b.y) < 15) at = b.y + 15, moved = true;
    }
    taken_.push_back({begin, begin + width, at});
    return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\">{}</text>\n", begin, at, escape(text));
  }

 private:
  struct Box {
    double begin, end, y;
  };
  std::vector<Box> taken_;
};

std::string grid(const ScatterChart& chart, const Scale& x, const Scale& y) {
  std::string out;
  for (const double tick : y.log ? log_ticks(y.low, y.high) : linear_ticks(y.low, y.high, 6))
    out += fmt::format(
        "<line class=\"grid\" x1=\"{}\" x2=\"{}\" y1=\"{:.1f}\" y2=\"{:.1f}\"/>"
        "<text class=\"soft\" x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\">{:.4g}</text>\n",
        kLeft, kRight, y.at(tick), y.at(tick), kLeft - 6, y.at(tick) + 4, tick);
  for (const double tick : linear_ticks(x.low, x.high, 8))
    out += fmt::format("<text class=\"soft\" x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{:.4g}</text>\n",
                       x.at(tick), kBottom + 18, tick);
  out += fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n", (kLeft + kRight) / 2,
                     kBottom + 38, escape(chart.x_label));
  return out + fmt::format("<text x=\"4\" y=\"{}\">{}</text>\n", kTop - 12, escape(chart.y_label));
}

bool filled(double v) { return std::isfinite(v) && v > 0; }

}  // namespace

std::vector<size_t> pareto_line(const std::vector<ScatterChart::Point>& points) {
  std::vector<size_t> order(points.size()), line;
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return points[a].x != points[b].x ? points[a].x < points[b].x : points[a].y < points[b].y;
  });
  double least = INFINITY;
  for (const size_t i : order)
    if (points[i].y < least) least = points[i].y, line.push_back(i);
  return line;
}

std::string svg(const ScatterChart& chart, std::string_view id) {
  std::string out = open_svg(id, kBottom + 50, chart.title, chart.description);
  for (const auto& p : chart.points)
    check_internal(
        std::isfinite(p.x) && std::isfinite(p.y) && std::isfinite(p.interval) && (!chart.log_y || p.y > 0),
        "report scatter chart: a point is not finite, or not positive on a logarithmic axis");
  if (chart.points.empty()) return out + "<text x=\"4\" y=\"40\">no data</text>\n</svg>\n";
  const Scale x = x_scale(chart), y = y_scale(chart);
  out += grid(chart, x, y);
  std::string line;
  for (const size_t i : pareto_line(chart.points))
    line += fmt::format("{}{:.1f},{:.1f}", line.empty() ? "" : " ", x.at(chart.points[i].x),
                        y.at(chart.points[i].y));
  out += fmt::format(
      "<polyline class=\"line\" points=\"{}\" stroke=\"var(--c1)\" stroke-dasharray=\"5 4\"><title>Pareto "
      "line</title></polyline>\n",
      line);
  Labels labels;
  for (const auto& p : chart.points) {
    const double px = x.at(p.x), top = y.at(p.y + p.interval),
                 bottom = y.at(std::max(p.y - p.interval, y.low));
    out += fmt::format(
        "<line class=\"line\" x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1:.1f}\" y2=\"{2:.1f}\" "
        "stroke=\"var(--c0)\"/>"
        "<circle cx=\"{0:.1f}\" cy=\"{3:.1f}\" r=\"4.5\" fill=\"var(--c0)\"><title>{4}: {5:.4g}, {6:.4g} ± "
        "{7:.2g}</title></circle>\n",
        px, top, bottom, y.at(p.y), escape(p.label), p.x, p.y, p.interval);
    out += labels.place(px, y.at(p.y), p.label);
  }
  return out + "</svg>\n";
}

std::string svg(const HeatMap& map, std::string_view id) {
  constexpr double kRow = 24;
  check_internal(map.values.size() == map.rows.size(), "report heat map: rows and values differ in number");
  double low = INFINITY, high = 0;
  size_t label = 0;
  for (size_t r = 0; r < map.rows.size(); ++r) {
    check_internal(map.values[r].size() == map.columns.size(),
                   "report heat map: columns and values differ in number");
    label = std::max(label, length_of(map.rows[r]));
    for (const double v : map.values[r])
      if (filled(v)) low = std::min(low, v), high = std::max(high, v);
  }
  const double left = std::min(kWidth / 2, static_cast<double>(label) * kCharacter + 12),
               bottom = kRow * static_cast<double>(map.rows.size()) + 8;
  const double width = (kWidth - left - 4) / static_cast<double>(std::max<size_t>(1, map.columns.size()));
  std::string out = open_svg(id, bottom + 62, map.title, map.description);
  for (size_t r = 0; r < map.rows.size(); ++r) {
    const double y = 4 + kRow * static_cast<double>(r);
    out += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>\n", left - 8, y + 16,
                       escape(map.rows[r]));
    for (size_t c = 0; c < map.columns.size(); ++c) {
      const double v = map.values[r][c];
      if (!filled(v)) continue;
      const double t = high > low ? std::log(v / low) / std::log(high / low) : 1;
      out += fmt::format(
          "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.2f}\" height=\"{}\" fill=\"var(--c1)\" "
          "fill-opacity=\"{:.2f}\"><title>{}, {}: {:.3g}</title></rect>\n",
          left + width * static_cast<double>(c), y, std::max(width - 1, 0.5), kRow - 2, 0.08 + 0.92 * t,
          escape(map.rows[r]), escape(map.columns[c]), v);
    }
  }
  const size_t step = std::max<size_t>(1, map.columns.size() / 12);
  for (size_t c = 0; c < map.columns.size(); c += step)
    out += fmt::format("<text class=\"soft\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{}</text>\n",
                       left + width * (static_cast<double>(c) + 0.5), bottom + 14, escape(map.columns[c]));
  out += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{}</text>\n",
                     (left + kWidth) / 2, bottom + 32, escape(map.x_label));
  if (high > 0)
    out += fmt::format(
        "<text class=\"soft\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">palest {:.3g}, darkest "
        "{:.3g}, logarithmic</text>\n",
        (left + kWidth) / 2, bottom + 52, low, high);
  return out + "</svg>\n";
}

}  // namespace awq::report
