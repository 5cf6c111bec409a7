// Bar and line charts as inline SVG. Coordinates are in viewBox units; the page's style scales the element to
// the width at hand and sets the colours, so that charts follow the dark and light schemes.
#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "base/error.h"
#include "report/axes.h"
#include "report/html.h"

namespace awq::report {

std::string open_svg(std::string_view id, double height, std::string_view title,
                     std::string_view description) {
  return fmt::format(
      "<svg viewBox=\"0 0 {:.0f} {:.0f}\" role=\"img\" aria-labelledby=\"{}-t {}-d\">\n"
      "<title id=\"{}-t\">{}</title>\n<desc id=\"{}-d\">{}</desc>\n",
      kWidth, height, id, id, id, escape(title), id, escape(description));
}

size_t length_of(std::string_view text) {
  return std::count_if(text.begin(), text.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; });
}

std::vector<double> linear_ticks(double low, double high, int most) {
  if (!(high > low)) high = low + 1;
  double step = std::pow(10.0, std::floor(std::log10((high - low) / most)));
  for (const double factor : {1.0, 2.0, 5.0, 10.0})
    if ((high - low) / (step * factor) <= most) {
      step *= factor;
      break;
    }
  std::vector<double> ticks;
  for (double k = std::ceil(low / step - 1e-9); k * step <= high + step * 1e-9; ++k)
    ticks.push_back(k * step + 0.0);  // + 0.0: never -0
  return ticks;
}

std::vector<double> log_ticks(double low, double high) {
  std::vector<double> ticks;
  for (double power = std::pow(10.0, std::floor(std::log10(low))); power <= high; power *= 10)
    for (const double factor : {1.0, 2.0, 5.0}) {
      const double tick = power * factor;
      if (tick >= low * 0.999 && tick <= high * 1.001) ticks.push_back(tick);
    }
  return ticks;
}

double log_bound(double v, bool up) {
  const double power = std::pow(10.0, std::floor(std::log10(v)));
  double below = power;
  for (const double factor : {1.0, 2.0, 5.0, 10.0}) {
    if (up && power * factor >= v * 0.999) return power * factor;
    if (power * factor <= v * 1.001) below = power * factor;
  }
  return up ? power * 10 : below;
}

namespace {

struct Style {
  const char* color;
  const char* dash;
};
constexpr std::array<Style, 6> kStyles = {{{"var(--c0)", "none"},
                                           {"var(--c1)", "7 3"},
                                           {"var(--c2)", "2 3"},
                                           {"var(--c3)", "9 3 2 3"},
                                           {"var(--c4)", "4 4"},
                                           {"var(--c5)", "12 4"}}};

struct Range {
  double low = INFINITY, high = -INFINITY;
  void add(double v) { low = std::min(low, v), high = std::max(high, v); }
  bool empty() const { return !(low <= high); }
};

bool drawable(const LineChart& chart, const LineChart::Point& p) {
  return std::isfinite(p.x) && std::isfinite(p.y) && (!chart.log_y || p.y > 0);
}

// Maps data to the plotting area and draws what surrounds the lines.
class Axes {
 public:
  Axes(const LineChart& chart, Range x, Range y) : chart_(chart), x_(x), y_(y) {
    if (chart.log_y)
      y_ = {log_bound(y_.low, false), log_bound(y_.high, true)};
    else
      y_.low = std::min(0.0, y_.low);
    if (!(y_.high > y_.low)) chart.log_y ? (y_.low /= 2, y_.high *= 2) : y_.high = y_.low + 1;
    if (!(x_.high > x_.low)) x_.high = x_.low + 1;
  }
  double px(double x) const { return kLeft + (x - x_.low) / (x_.high - x_.low) * (kRight - kLeft); }
  double py(double y) const {
    const double t =
        chart_.log_y ? std::log(y / y_.low) / std::log(y_.high / y_.low) : (y - y_.low) / (y_.high - y_.low);
    return kBottom - t * (kBottom - kTop);
  }
  std::string draw() const {
    std::string out;
    for (const double tick : chart_.log_y ? log_ticks(y_.low, y_.high) : linear_ticks(y_.low, y_.high, 6))
      out += fmt::format(
          "<line class=\"grid\" x1=\"{}\" x2=\"{}\" y1=\"{:.1f}\" y2=\"{:.1f}\"/>"
          "<text class=\"soft\" x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\">{:.4g}</text>\n",
          kLeft, kRight, py(tick), py(tick), kLeft - 6, py(tick) + 4, tick);
    for (const double tick : linear_ticks(x_.low, x_.high, 10))
      out += fmt::format("<text class=\"soft\" x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{:.4g}</text>\n",
                         px(tick), kBottom + 18, tick);
    out += fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n", (kLeft + kRight) / 2,
                       kBottom + 38, escape(chart_.x_label));
    out += fmt::format("<text x=\"{}\" y=\"{}\">{}</text>\n", 4, kTop - 12, escape(chart_.y_label));
    return out;
  }
  static constexpr double kLeft = 64, kRight = kWidth - 16, kTop = 34, kBottom = 330;

 private:
  const LineChart& chart_;
  Range x_, y_;
};

std::string polyline(const LineChart& chart, const LineChart::Series& series, const Axes& axes,
                     const Style& style) {
  std::string points;
  for (const auto& p : series.points)
    if (drawable(chart, p)) points += fmt::format("{:.1f},{:.1f} ", axes.px(p.x), axes.py(p.y));
  if (!points.empty()) points.pop_back();
  return fmt::format(
      "<polyline class=\"line\" points=\"{}\" stroke=\"{}\" "
      "stroke-dasharray=\"{}\"><title>{}</title></polyline>\n",
      points, style.color, style.dash, escape(series.name));
}

}  // namespace

std::string svg(const BarChart& chart, std::string_view id) {
  constexpr double kRow = 24, kThickness = 15;
  double greatest = 0;
  size_t label = 0, text = 0;
  for (const auto& bar : chart.bars) {
    check_internal(std::isfinite(bar.value) && bar.value >= 0,
                   "report bar chart: a value is negative or not finite");
    greatest = std::max(greatest, bar.value);
    label = std::max(label, length_of(bar.label));
    text = std::max(text, length_of(bar.text));
  }
  const double left = std::min(kWidth / 2, static_cast<double>(label) * kCharacter + 12);
  const double room = std::max(60.0, kWidth - left - static_cast<double>(text) * kCharacter - 16);
  std::string out =
      open_svg(id, kRow * static_cast<double>(chart.bars.size()) + 8, chart.title, chart.description);
  double y = 4;
  for (const auto& bar : chart.bars) {
    const double width = greatest > 0 ? bar.value / greatest * room : 0;
    out += fmt::format(
        "<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>"
        "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{}\" fill=\"var(--c0)\"/>"
        "<text x=\"{:.1f}\" y=\"{:.1f}\">{}</text>\n",
        left - 8, y + 12, escape(bar.label), left, y, width, kThickness, left + width + 6, y + 12,
        escape(bar.text));
    y += kRow;
  }
  return out + "</svg>\n";
}

std::string svg(const LineChart& chart, std::string_view id) {
  Range x, y;
  for (const auto& series : chart.series)
    for (const auto& p : series.points)
      if (drawable(chart, p)) x.add(p.x), y.add(p.y);
  const double legend_top = Axes::kBottom + 60;
  std::string out = open_svg(id, legend_top + 22 * static_cast<double>((chart.series.size() + 2) / 3),
                             chart.title, chart.description);
  if (x.empty()) return out + "<text x=\"4\" y=\"40\">no data</text>\n</svg>\n";
  const Axes axes(chart, x, y);
  out += axes.draw();
  for (size_t i = 0; i < chart.series.size(); ++i) {
    const Style& style = kStyles[i % kStyles.size()];
    out += polyline(chart, chart.series[i], axes, style);
    const double lx = Axes::kLeft + static_cast<double>(i % 3) * 250,
                 ly = legend_top + 22 * static_cast<double>(i / 3);
    out += fmt::format(
        "<line class=\"line\" x1=\"{0}\" x2=\"{1}\" y1=\"{2}\" y2=\"{2}\" stroke=\"{3}\" "
        "stroke-dasharray=\"{4}\"/>"
        "<text x=\"{5}\" y=\"{6}\">{7}</text>\n",
        lx, lx + 32, ly, style.color, style.dash, lx + 40, ly + 4, escape(chart.series[i].name));
  }
  return out + "</svg>\n";
}

}  // namespace awq::report
