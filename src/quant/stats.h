// What calibration learns about one block: per site the Gram matrix of the inputs and their magnitudes. One pass over the
// tokens; every candidate of every method reads these and never the tokens again.
#pragma once
#include <array>
#include <cstdint>
#include <vector>

#include "model/model.h"

namespace awq {

struct SiteStats {
  int64_t dim = 0;
  int64_t tokens = 0;
  std::vector<float> gram;      // [dim, dim], XᵀX
  std::vector<double> abs_sum;  // [dim], Σ|x|
  float abs_max = 0;            // largest |x| seen at the site

  std::vector<float> abs_mean() const;  // [dim]
};

class StatsObserver : public Observer {
 public:
  // bf16: inputs may be rounded to bfloat16 before the Gram product where the machine has such products.
  explicit StatsObserver(bool bf16) : bf16_(bf16) {}
  void on_input(int64_t layer, Site site, const float* x, int64_t tokens, int64_t dim) override;
  const SiteStats& at(Site site) const { return sites_[static_cast<size_t>(site)]; }
  void reset();

 private:
  std::array<SiteStats, 4> sites_;
  bool bf16_;
};

}  // namespace awq
