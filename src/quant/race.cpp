#include "quant/race.h"

#include <cmath>
#include <numeric>

namespace awq {
namespace {

constexpr double kDoubt = 3;  // standard errors
constexpr size_t kFewCases = 8;

double sum(const std::vector<double>& v) { return std::accumulate(v.begin(), v.end(), 0.0); }

bool worse(const std::vector<double>& candidate, const std::vector<double>& best) {
  const double own = sum(candidate), least = sum(best);
  if (!std::isfinite(own)) return std::isfinite(least);
  const auto n = static_cast<double>(candidate.size());
  const double mean = (own - least) / n;
  double squares = 0;
  for (size_t i = 0; i < candidate.size(); ++i) {
    const double d = candidate[i] - best[i] - mean;
    squares += d * d;
  }
  return candidate.size() >= kFewCases && mean > kDoubt * std::sqrt(squares / (n - 1) / n);
}

}  // namespace

size_t least_sum(const std::vector<std::vector<double>>& errors) {
  size_t best = 0;
  double least = sum(errors.front());
  for (size_t c = 1; c < errors.size(); ++c) {
    const double own = sum(errors[c]);
    if (own < least || (!std::isfinite(least) && std::isfinite(own))) best = c, least = own;
  }
  return best;
}

std::vector<bool> worse_beyond_doubt(const std::vector<std::vector<double>>& errors) {
  const std::vector<double>& best = errors[least_sum(errors)];
  std::vector<bool> out;
  for (const std::vector<double>& candidate : errors) out.push_back(worse(candidate, best));
  return out;
}

}  // namespace awq
