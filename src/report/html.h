// Self-contained HTML pages: one file that opens offline, prints well and follows the reader's dark or light
// setting. Charts are inline SVG; nothing is loaded from anywhere, and the page says so to the browser with a
// Content-Security-Policy. Everything passed in is text: it is escaped here, and bytes that are not UTF-8
// become U+FFFD, so that a model's raw output cannot break a page.
#pragma once
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace awq::report {

// For element content and double-quoted attribute values alike.
std::string escape(std::string_view text);

struct Column {
  std::string title;
  bool numeric = false;  // right-aligned, figures of equal width
};

// Each row has as many cells as there are columns; the first cell of a row is its header. Pages refuse other
// rows with Error{kInternal}.
struct Table {
  std::string caption;
  std::vector<Column> columns;
  std::vector<std::vector<std::string>> rows;
};

// Horizontal bars from zero, one per label; values are at least 0 and finite.
struct BarChart {
  struct Bar {
    std::string label;
    double value = 0;
    std::string text;  // printed after the bar, e.g. "3.1 %"
  };
  std::string title;
  std::string description;  // one sentence for screen readers: what the chart shows
  std::vector<Bar> bars;
};

// Lines over a common numeric x axis. Series differ in dash pattern as well as in colour. Points that are not
// finite, or not positive under log_y, are left out.
struct LineChart {
  struct Point {
    double x = 0, y = 0;
  };
  struct Series {
    std::string name;
    std::vector<Point> points;  // in order of x
  };
  std::string title;
  std::string description;
  std::string x_label, y_label;
  bool log_y = false;
  std::vector<Series> series;
};

// Labelled points with an interval upwards and downwards, both axes linear or y logarithmic; points on the Pareto line (none
// other is at most as far right and lower) are joined by a thin line.
struct ScatterChart {
  struct Point {
    std::string label;
    double x = 0, y = 0, interval = 0;  // half width; finite, y positive under log_y
  };
  std::string title, description, x_label, y_label;
  bool log_y = false;
  std::vector<Point> points;
};

// A grid of cells coloured by value, smallest to largest on a logarithmic scale; not finite or not positive: left empty. Every
// cell says its numbers to the pointer and to screen readers.
struct HeatMap {
  std::string title, description, x_label;
  std::vector<std::string> rows, columns;
  std::vector<std::vector<double>> values;  // [rows][columns]
};

struct TextColumn {
  std::string title;
  std::string text;  // shown as it is, line breaks kept
};

class Page {
 public:
  explicit Page(std::string title);

  Page& heading(std::string_view text);  // a section heading; the title is the page's only top heading
  Page& paragraph(std::string_view text);
  Page& code(std::string_view text);  // a block to copy
  Page& table(const Table& table);
  Page& bar_chart(const BarChart& chart);
  Page& line_chart(const LineChart& chart);
  Page& scatter_chart(const ScatterChart& chart);
  Page& heat_map(const HeatMap& map);
  Page& columns(const std::vector<TextColumn>& columns);  // side by side, wrapped on narrow screens
  Page& begin_details(std::string_view summary);          // folded until opened; may not nest
  Page& end_details();
  Page& footer(std::string_view text);

  std::string html() const;  // the whole document

 private:
  std::string title_, body_, footer_;
  bool in_details_ = false;
  size_t charts_ = 0;  // numbers the charts, for ids
};

// One <svg> element; `id` makes its inner ids unique within a page.
std::string svg(const BarChart& chart, std::string_view id);
std::string svg(const LineChart& chart, std::string_view id);
std::string svg(const ScatterChart& chart, std::string_view id);
std::string svg(const HeatMap& map, std::string_view id);
// Indices of the points no other point beats in both x and y, by x.
std::vector<size_t> pareto_line(const std::vector<ScatterChart::Point>& points);

}  // namespace awq::report
