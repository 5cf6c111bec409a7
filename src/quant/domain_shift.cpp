#include "quant/domain_shift.h"

#include <cmath>

#include "base/thread_pool.h"

namespace awq {
namespace {

constexpr Site kSites[] = {Site::kAttentionIn, Site::kAttentionOut, Site::kMlpIn, Site::kMlpDown};

class MomentObserver : public Observer {
 public:
  void on_input(int64_t, Site site, const float* x, int64_t tokens, int64_t dim) override {
    std::vector<double>& sum = sums[static_cast<size_t>(site)];
    sum.resize(static_cast<size_t>(dim), 0.0);
    constexpr int64_t kColumns = 64;
    parallel_for((dim + kColumns - 1) / kColumns, [&](int64_t tile) {
      const int64_t begin = tile * kColumns, end = std::min(dim, begin + kColumns);
      for (int64_t t = 0; t < tokens; ++t)
        for (int64_t k = begin; k < end; ++k) sum[static_cast<size_t>(k)] += double{x[t * dim + k]} * x[t * dim + k];
    });
  }
  std::array<std::vector<double>, 4> sums;
};

}  // namespace

double DomainShift::mean() const {
  double sum = 0;
  for (const auto& block : sites)
    for (const double d : block) sum += d;
  return sites.empty() ? 0 : sum / static_cast<double>(4 * sites.size());
}

DomainShift::Largest DomainShift::largest() const {
  Largest out;
  for (size_t b = 0; b < sites.size(); ++b)
    for (const Site site : kSites)
      if (const double d = sites[b][static_cast<size_t>(site)]; d > out.distance) out = {static_cast<int64_t>(b), site, d};
  return out;
}

double moment_distance(const std::vector<double>& a, const std::vector<double>& b) {
  double sum_a = 0, sum_b = 0, distance = 0;
  for (size_t k = 0; k < a.size(); ++k) sum_a += a[k], sum_b += b[k];
  if (!(sum_a > 0) || !(sum_b > 0)) return 0;
  for (size_t k = 0; k < a.size(); ++k) distance += std::fabs(a[k] / sum_a - b[k] / sum_b);
  return distance / 2;
}

ShiftMeter::ShiftMeter(const std::vector<TokenSequences>& texts, const ModelConfig& config, const Tensor& embedding) : shifts_(texts.size()) {
  for (const TokenSequences& text : texts) states_.emplace_back(text, config, embedding);
}

void ShiftMeter::next(const Block& block, const StatsObserver& stats) {
  for (size_t i = 0; i < states_.size(); ++i) {
    MomentObserver seen;
    states_[i].advance(block, scratch_, &seen);
    std::array<double, 4>& distances = shifts_[i].sites.emplace_back();
    for (const Site site : kSites) {
      const SiteStats& s = stats.at(site);
      std::vector<double> calibration(static_cast<size_t>(s.dim));
      for (int64_t k = 0; k < s.dim; ++k) calibration[static_cast<size_t>(k)] = s.gram[static_cast<size_t>(k * s.dim + k)];
      distances[static_cast<size_t>(site)] = moment_distance(calibration, seen.sums[static_cast<size_t>(site)]);
    }
  }
}

}  // namespace awq
