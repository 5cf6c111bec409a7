// Quantiles of what was measured.
#pragma once
#include <vector>

namespace awq {

// The smallest value that at least the share q of all values does not exceed (nearest rank); 0 of none.
double quantile(std::vector<double> values, double q);

}  // namespace awq
