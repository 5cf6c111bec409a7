// How many calibration sequences a model needs (--samples auto), decided before it is quantized, on its first blocks.
#pragma once
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <vector>

#include "base/progress.h"
#include "quant/plan.h"
#include "quant/sequences.h"

namespace awq {

inline constexpr int64_t kFirstSamples = 8, kMostSamples = 256;
inline constexpr int64_t kProbeBlocks = 4;
inline constexpr double kSampleGap = 0.04;  // see SampleStep::gap

// Rows of the first blocks are rounded as the method rounds, with the statistics of `fitted` sequences. Their loss over that of
// rounding to nearest is smaller on the sequences that were fitted than on as many others; the gap is by how much, relatively,
// mean over the blocks' sites. It falls as 1 / sequences, and with all that were looked at the loss is about a quarter of it
// above what endless text would give.
struct SampleStep {
  int64_t fitted = 0;
  double gap = 0;
};

// Whether the method corrects the rounding of one weight by others: it then depends on the whole Gram matrix, which takes more
// text than the blocks of it that other methods read.
bool compensates(const QuantizeOptions& options);

struct SampleChoice {
  TokenSequences sequences;  // those to calibrate with
  int64_t used = 0;          // their number
  bool automatic = false;    // found by choose_samples; else the rest is empty
  int64_t available = 0;     // that the text would have given, kMostSamples at most
  bool converged = false;    // the last gap is below kSampleGap
  std::vector<SampleStep> steps;
};

// Doubles the sequences of seq_len tokens, spread evenly over the stream and each set part of the next, until the gap is below
// kSampleGap or there are no more. Runs on the CPU. The same for any number of threads. Sites wider than kWidestProbe inputs are
// left out, since one factor of their Gram matrix would cost more than the answer is worth. Methods without calibration get none.
inline constexpr int64_t kWidestProbe = 8192;
SampleChoice choose_samples(const Checkpoint& checkpoint, const QuantizeOptions& options, std::span<const int32_t> stream, int64_t seq_len,
                            Precision precision, const ProgressFn& progress);


// {"automatic", "used", "available", "converged", "steps": [{"fitted", "gap"}]}; only the first two where the number was given.
nlohmann::ordered_json samples_json(const SampleChoice& choice);
// "64 of 256 sequences of 512 tokens (more change little: 2.9 %)"
std::string samples_text(const SampleChoice& choice, int64_t seq_len);

}  // namespace awq
