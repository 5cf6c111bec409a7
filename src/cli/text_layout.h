// Tables and columns of text for a terminal. Widths count code points, which is right for the scripts whose
// characters take one cell.
#pragma once
#include <string>

#include "report/html.h"

namespace awq::cli {

// Lines without a trailing newline; columns separated by two spaces, numeric ones aligned to the right.
std::string text_table(const report::Table& table);

// The texts side by side in `width` cells, wrapped, at most `lines` lines each; a longer text ends with
// "...".
std::string text_columns(const std::vector<report::TextColumn>& columns, size_t width, size_t lines);

}  // namespace awq::cli
