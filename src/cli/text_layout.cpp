#include "cli/text_layout.h"

#include <algorithm>

namespace awq::cli {
namespace {

bool continues(char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; }
size_t cells(std::string_view text) {
  return text.size() - static_cast<size_t>(std::count_if(text.begin(), text.end(), continues));
}

std::string padded(const std::string& text, size_t width, bool right) {
  const std::string space(width - std::min(width, cells(text)), ' ');
  return right ? space + text : text + space;
}

void trim_right(std::string& line) { line.erase(line.find_last_not_of(' ') + 1); }

// Bytes of the first `count` code points.
size_t prefix(std::string_view text, size_t count) {
  size_t at = 0;
  while (at < text.size() && (count > 0 || continues(text[at]))) {
    if (!continues(text[at])) --count;
    ++at;
  }
  return at;
}

// Wraps at spaces; words longer than a line are cut. Control characters become spaces: a model's output must
// not move the terminal's cursor.
std::vector<std::string> wrap(std::string_view text, size_t width) {
  std::vector<std::string> lines;
  while (!text.empty()) {
    const size_t newline = std::min(text.find('\n'), text.size());
    std::string line(text.substr(0, newline));
    text.remove_prefix(std::min(newline + 1, text.size()));
    std::replace_if(
        line.begin(), line.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; },
        ' ');
    while (cells(line) > width) {
      const size_t limit = prefix(line, width);
      const size_t space = line.rfind(' ', limit);
      const size_t cut = space == std::string::npos || space == 0 ? limit : space;
      lines.push_back(line.substr(0, cut));
      line.erase(0, line[cut] == ' ' ? cut + 1 : cut);
    }
    lines.push_back(line);
  }
  return lines;
}

}  // namespace

std::string text_table(const report::Table& table) {
  std::vector<std::vector<std::string>> rows(1);
  for (const auto& column : table.columns) rows[0].push_back(column.title);
  rows.insert(rows.end(), table.rows.begin(), table.rows.end());
  std::vector<size_t> widths(table.columns.size());
  for (const auto& row : rows)
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], cells(row[i]));
  std::string out;
  for (const auto& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i)
      line += (i ? "  " : "") + padded(row[i], widths[i], table.columns[i].numeric);
    trim_right(line);
    out += (out.empty() ? "" : "\n") + line;
  }
  return out;
}

std::string text_columns(const std::vector<report::TextColumn>& columns, size_t width, size_t lines) {
  if (columns.empty()) return {};
  const size_t each = std::max<size_t>(12, (width + 3) / columns.size() - 3);
  std::vector<std::vector<std::string>> wrapped;
  size_t height = 0;
  for (const auto& column : columns) {
    auto text = wrap(column.text, each);
    if (text.size() > lines) {
      text.resize(lines);
      text.back() = text.back().substr(0, prefix(text.back(), each - 4)) + " ...";
    }
    text.insert(text.begin(), {column.title.substr(0, prefix(column.title, each)),
                               std::string(std::min(each, cells(column.title)), '-')});
    height = std::max(height, text.size());
    wrapped.push_back(std::move(text));
  }
  std::string out;
  for (size_t i = 0; i < height; ++i) {
    std::string line;
    for (size_t c = 0; c < wrapped.size(); ++c)
      line += (c ? " | " : "") + padded(i < wrapped[c].size() ? wrapped[c][i] : "", each, false);
    trim_right(line);
    out += (i ? "\n" : "") + line;
  }
  return out;
}

}  // namespace awq::cli
