// What calibration learns about one block: per site the Gram matrix of the inputs and their magnitudes. One pass over the
// tokens; every candidate of every method reads these and never the tokens again.
#pragma once
#include <array>
#include <cstdint>
#include <vector>

#include "kernels/quant_backend.h"
#include "model/block_runner.h"
#include "model/model.h"

namespace awq {

struct SiteStats {
  int64_t dim = 0;
  int64_t tokens = 0;
  std::vector<float> gram;      // [dim, dim], XᵀX; empty where it is on a device
  std::shared_ptr<void> device_gram;
  std::vector<double> abs_sum;  // [dim], Σ|x|
  std::vector<float> channel_max;  // [dim], largest |x| of each channel
  float abs_max = 0;            // the largest of all
  std::vector<float> sample;    // [sample_tokens, dim]: tokens evenly spaced within each call, until there are kSampleTokens
  int64_t sample_tokens = 0;

  GramView view() const { return {dim, gram.data(), device_gram.get()}; }
  std::vector<float> abs_mean() const;  // [dim]
};

// Where a loss depends on whole tokens (int8 activations) it is measured on so many.
inline constexpr int64_t kSampleTokens = 512, kSamplePerCall = 32;

class StatsObserver : public Observer {
 public:
  // bf16: inputs may be rounded to bfloat16 before the Gram product where the machine has such products.
  // keep_sample: also keep some of the tokens themselves.
  explicit StatsObserver(bool bf16, bool keep_sample = false) : bf16_(bf16), keep_sample_(keep_sample) {}
  void on_input(int64_t layer, Site site, const float* x, int64_t tokens, int64_t dim) override;
  // What a device has summed.
  void take(Site site, InputSums&& sums);
  const SiteStats& at(Site site) const { return sites_[static_cast<size_t>(site)]; }
  void set(Site site, SiteStats stats) { sites_[static_cast<size_t>(site)] = std::move(stats); }
  void reset();

 private:
  std::array<SiteStats, 4> sites_;
  bool bf16_, keep_sample_;
};

}  // namespace awq
