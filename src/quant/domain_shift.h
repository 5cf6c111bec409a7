// How far the text a model is judged on lies from the text it was calibrated on, as the linears' inputs see it.
#pragma once
#include <array>
#include <string>
#include <vector>

#include "quant/sequences.h"
#include "quant/stats.h"

namespace awq {

// Of each text this many sequences of so many tokens, evenly spaced.
inline constexpr int64_t kShiftSequences = 16, kShiftSeqLen = 512;

// Per block and site the share of energy (second moment) that lies in other channels than with the calibration text:
// 1/2 Σ_k |p_k - q_k|, p and q the channels' second moments divided by their sum. 0: distributed alike, 1: over other channels.
struct DomainShift {
  std::vector<std::array<double, 4>> sites;  // by block, then in the order of Site
  double mean() const;
  struct Largest {
    int64_t block = 0;
    Site site = Site::kAttentionIn;
    double distance = 0;
  };
  Largest largest() const;
};

// a and b: second moments of the same channels, up to a factor each; 0 where either has none.
double moment_distance(const std::vector<double>& a, const std::vector<double>& b);

// Carries texts through the source's blocks beside its calibration. The first text should be a part of the calibration text: its
// distance is what so few tokens alone bring about.
class ShiftMeter {
 public:
  ShiftMeter(const std::vector<TokenSequences>& texts, const ModelConfig& config, const Tensor& embedding);
  // stats: what calibration learned about the block; its Gram matrices are in host memory.
  void next(const Block& block, const StatsObserver& stats);
  const std::vector<DomainShift>& shifts() const { return shifts_; }  // of each text

 private:
  std::vector<HiddenStates> states_;
  std::vector<DomainShift> shifts_;
  Scratch scratch_;
};

}  // namespace awq
