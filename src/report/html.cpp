#include "report/html.h"

#include <fmt/core.h>

#include <cstdint>

#include "base/error.h"

namespace awq::report {
namespace {

// Length of the valid UTF-8 sequence at text[i], 0 when there is none (Unicode 15, table 3-7).
size_t utf8_length(std::string_view text, size_t i) {
  const auto byte = [&](size_t k) { return static_cast<uint8_t>(k < text.size() ? text[k] : 0); };
  const auto follows = [&](size_t k, uint8_t low = 0x80, uint8_t high = 0xbf) {
    return byte(k) >= low && byte(k) <= high;
  };
  const uint8_t lead = byte(i);
  if (lead < 0x80) return 1;
  if (lead >= 0xc2 && lead <= 0xdf) return follows(i + 1) ? 2 : 0;
  if (lead >= 0xe0 && lead <= 0xef) {
    const uint8_t low = lead == 0xe0 ? 0xa0 : 0x80, high = lead == 0xed ? 0x9f : 0xbf;
    return follows(i + 1, low, high) && follows(i + 2) ? 3 : 0;
  }
  if (lead >= 0xf0 && lead <= 0xf4) {
    const uint8_t low = lead == 0xf0 ? 0x90 : 0x80, high = lead == 0xf4 ? 0x8f : 0xbf;
    return follows(i + 1, low, high) && follows(i + 2) && follows(i + 3) ? 4 : 0;
  }
  return 0;
}

constexpr std::string_view kReplacement = "\xef\xbf\xbd";  // U+FFFD

// Colours meet WCAG AA contrast on their backgrounds in both schemes.
constexpr std::string_view kStyle = R"css(
:root { color-scheme: light dark; --ink: #1c2128; --soft: #57606a; --paper: #ffffff; --panel: #f4f6f8;
  --line: #d0d7de; --c0: #0b62c4; --c1: #b3500a; --c2: #1a7f37; --c3: #8639b5; --c4: #6b6200; --c5: #b02a5b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9da7b3; --paper: #0f141a;
  --panel: #19202a; --line: #38424e; --c0: #6cb2ff; --c1: #f0965a; --c2: #5dc878; --c3: #c99bf0; --c4: #d3c04a;
  --c5: #f58bb1; } }
body { margin: 0 auto; max-width: 66rem; padding: 1.5rem 1rem 3rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; } h2 { font-size: 1.25rem; margin-top: 2.2rem; }
p { max-width: 46rem; } .scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; } caption { text-align: left; color: var(--soft); padding: .3rem 0; }
th, td { padding: .35rem .7rem; border-bottom: 1px solid var(--line); text-align: left; font-weight: normal; }
thead th { border-bottom: 2px solid var(--line); font-weight: 600; } tbody th { font-weight: 600; }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
pre { background: var(--panel); border: 1px solid var(--line); border-radius: .4rem; padding: .7rem .9rem;
  overflow-x: auto; font: .9rem/1.45 ui-monospace, monospace; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(16rem, 1fr)); gap: 1rem; }
.columns section { background: var(--panel); border: 1px solid var(--line); border-radius: .4rem; padding: .2rem .9rem .7rem; }
.columns h3 { font-size: 1rem; margin: .5rem 0; }
.columns div { white-space: pre-wrap; tab-size: 4; overflow-wrap: anywhere; font-size: .92rem; }
details { margin: 1rem 0; } summary { cursor: pointer; font-weight: 600; }
figure { margin: 1.2rem 0; overflow-x: auto; } figcaption { font-weight: 600; margin-bottom: .4rem; }
svg { width: 100%; min-width: 34rem; max-width: 60rem; height: auto; font: 13px system-ui, sans-serif; } svg text { fill: var(--ink); }
svg .soft { fill: var(--soft); } svg .grid { stroke: var(--line); } svg .line { fill: none; stroke-width: 2; }
footer { margin-top: 3rem; padding-top: .8rem; border-top: 1px solid var(--line); color: var(--soft); font-size: .9rem; }
@media print { details { display: block; } body { max-width: none; } }
)css";

}  // namespace

std::string escape(std::string_view text) {
  std::string out;
  out.reserve(text.size() + text.size() / 8);
  for (size_t i = 0; i < text.size();) {
    const size_t length = utf8_length(text, i);
    const char c = text[i];
    const bool control = static_cast<uint8_t>(c) < 0x20 && c != '\n' && c != '\t';
    if (length == 0 || control || c == 0x7f) {
      out += kReplacement;
      ++i;
      continue;
    }
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out.append(text.substr(i, length));
    }
    i += length;
  }
  return out;
}

Page::Page(std::string title) : title_(std::move(title)) {}

Page& Page::heading(std::string_view text) {
  body_ += fmt::format("<h2>{}</h2>\n", escape(text));
  return *this;
}

Page& Page::paragraph(std::string_view text) {
  body_ += fmt::format("<p>{}</p>\n", escape(text));
  return *this;
}

Page& Page::code(std::string_view text) {
  body_ += fmt::format("<pre><code>{}</code></pre>\n", escape(text));
  return *this;
}

Page& Page::table(const Table& table) {
  // tabindex: a wide table scrolls inside its box, and the keyboard must be able to reach that box.
  body_ += "<div class=\"scroll\" tabindex=\"0\"><table>\n";
  if (!table.caption.empty()) body_ += fmt::format("<caption>{}</caption>\n", escape(table.caption));
  const auto align = [&](size_t column) { return table.columns[column].numeric ? " class=\"n\"" : ""; };
  body_ += "<thead><tr>";
  for (size_t i = 0; i < table.columns.size(); ++i)
    body_ += fmt::format("<th scope=\"col\"{}>{}</th>", align(i), escape(table.columns[i].title));
  body_ += "</tr></thead>\n<tbody>\n";
  for (const auto& row : table.rows) {
    check_internal(row.size() == table.columns.size(), "report table: a row's cells differ from the columns");
    body_ += "<tr>";
    for (size_t i = 0; i < row.size(); ++i)
      body_ += i == 0 ? fmt::format("<th scope=\"row\"{}>{}</th>", align(i), escape(row[i]))
                      : fmt::format("<td{}>{}</td>", align(i), escape(row[i]));
    body_ += "</tr>\n";
  }
  body_ += "</tbody></table></div>\n";
  return *this;
}

Page& Page::bar_chart(const BarChart& chart) {
  body_ += fmt::format("<figure><figcaption>{}</figcaption>\n{}</figure>\n", escape(chart.title),
                       svg(chart, fmt::format("chart{}", charts_++)));
  return *this;
}

Page& Page::line_chart(const LineChart& chart) {
  body_ += fmt::format("<figure><figcaption>{}</figcaption>\n{}</figure>\n", escape(chart.title),
                       svg(chart, fmt::format("chart{}", charts_++)));
  return *this;
}

Page& Page::scatter_chart(const ScatterChart& chart) {
  body_ += fmt::format("<figure><figcaption>{}</figcaption>\n{}</figure>\n", escape(chart.title),
                       svg(chart, fmt::format("chart{}", charts_++)));
  return *this;
}

Page& Page::heat_map(const HeatMap& map) {
  body_ += fmt::format("<figure><figcaption>{}</figcaption>\n{}</figure>\n", escape(map.title),
                       svg(map, fmt::format("chart{}", charts_++)));
  return *this;
}

Page& Page::columns(const std::vector<TextColumn>& columns) {
  body_ += "<div class=\"columns\">\n";
  for (const auto& column : columns)
    body_ += fmt::format("<section><h3>{}</h3><div>{}</div></section>\n", escape(column.title),
                         escape(column.text));
  body_ += "</div>\n";
  return *this;
}

Page& Page::begin_details(std::string_view summary) {
  check_internal(!in_details_, "report details do not nest");
  in_details_ = true;
  body_ += fmt::format("<details><summary>{}</summary>\n", escape(summary));
  return *this;
}

Page& Page::end_details() {
  check_internal(in_details_, "report details end without a beginning");
  in_details_ = false;
  body_ += "</details>\n";
  return *this;
}

Page& Page::footer(std::string_view text) {
  footer_ += fmt::format("<p>{}</p>\n", escape(text));
  return *this;
}

std::string Page::html() const {
  check_internal(!in_details_, "report page ends inside details");
  std::string out = "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n";
  out += "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n";
  out +=
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src "
      "'unsafe-inline'\">\n";
  out += fmt::format("<title>{0}</title>\n<style>{1}</style>\n</head>\n<body>\n<main>\n<h1>{0}</h1>\n",
                     escape(title_), kStyle);
  out += body_;
  out += "</main>\n";
  if (!footer_.empty()) out += fmt::format("<footer>\n{}</footer>\n", footer_);
  out += "</body>\n</html>\n";
  return out;
}

}  // namespace awq::report
