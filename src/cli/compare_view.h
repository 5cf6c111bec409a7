// What `awq compare` found, as a table and a page.
#pragma once
#include <string>
#include <vector>

#include "eval/compare_json.h"
#include "report/html.h"

namespace awq::cli {

// One row per method, for one text; "≈" marks a KL that does not differ from the best by more than chance.
report::Table compare_table(const Comparison& c, const CompareFacts& facts, size_t text);
std::string compare_page(const Comparison& c, const CompareFacts& facts);

}  // namespace awq::cli
