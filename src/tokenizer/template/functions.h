// The tables of filters and tests, by name.
#pragma once
#include <string_view>

namespace awq::chat_template {

int find_filter(std::string_view name);  // its index in the table; -1: there is none
int find_test(std::string_view name);

}  // namespace awq::chat_template
