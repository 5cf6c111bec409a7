// Private to report/: what charts share.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace awq::report {

inline constexpr double kWidth = 820;
inline constexpr double kCharacter = 7.2;  // width of an average character at 13 px

std::string open_svg(std::string_view id, double height, std::string_view title, std::string_view description);
// Number of code points, as an estimate of how wide a label prints.
size_t length_of(std::string_view text);
// The steps of an axis: multiples of 1, 2 or 5 times a power of ten, at most `most` of them; and all of those between.
std::vector<double> linear_ticks(double low, double high, int most);
std::vector<double> log_ticks(double low, double high);
// The nearest 1, 2 or 5 times a power of ten that is not above (or, going up, not below) v, so that an axis ends at ticks.
double log_bound(double v, bool up);

}  // namespace awq::report
