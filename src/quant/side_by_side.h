// Several quantizations of one model in memory: each block's statistics are gathered once, from one pass of the calibration
// text, and every method reads them. The results are models ready to run, as their files would load.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "quant/domain_shift.h"
#include "quant/pipeline.h"

namespace awq {

// Rounding to nearest with a share of the input channels kept in 16 bits, chosen by the mean magnitude of their activations
// or weights, or at random: the AWQ paper's Table 1. No format stores such weights; it is a reference.
enum class Salient : uint8_t { kNone, kByActivation, kByWeight, kAtRandom };
inline constexpr double kSalientShare = 0.01;

struct Contender {
  std::string label;
  QuantizeOptions options;
  Salient salient = Salient::kNone;  // else options.method is rtn
};

struct ContenderResult {
  std::string label, method, scheme, format;
  double bits_per_weight = 0;
  int64_t bytes = 0;         // of the weight files
  int64_t memory_bytes = 0;  // estimated peak of quantizing with this method alone
  double seconds = 0;        // rounding of all blocks, and what the method replays; statistics are counted apart
  std::vector<LayerReport> layers;
  std::shared_ptr<const Model> model;
};

struct SideBySide {
  std::shared_ptr<const Model> source;
  double statistics_seconds = 0;
  DType dtype = DType::kF16;
  std::vector<ContenderResult> results;  // in the order of the contenders
  std::vector<DomainShift> shifts;       // of a part of the calibration text, then of each text given
};

// Files of statistics (stats_file.h); empty: none. What is read must have been made for the same source and calibration.
struct StatsFiles {
  std::string save, load;
};

// `texts` are compared with the calibration text (domain_shift.h). The models run with `run_precision`, the calibration with inputs.precision. Errors: those of plan_quantize and of the files.
SideBySide quantize_side_by_side(const Checkpoint& checkpoint, const std::vector<Contender>& contenders, const QuantizeInputs& inputs,
                                 Precision run_precision, const ProgressFn& progress, const StatsFiles& files = {},
                                 const std::vector<TokenSequences>& texts = {});

}  // namespace awq
