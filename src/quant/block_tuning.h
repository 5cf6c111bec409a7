// The last step of --quality max: codes and scales of a whole block tuned together against the block's
// output, by sign gradient descent through the rounding, as in SignRound (Cheng et al. 2023, arXiv
// 2309.05516).
#pragma once
#include <functional>
#include <map>
#include <string>

#include "kernels/quant_backend.h"
#include "model/model.h"
#include "quant/sequences.h"

namespace awq {

struct BlockTuning {
  const HiddenStates& inputs;   // of the block, from the network quantized so far
  const HiddenStates& targets;  // what the source's block gives, from the source's inputs; the same sequences
  int iterations = 200;  // of an attempt; where one finds nothing better, two more begin anew at lower rates
  bool bf16 = false;     // products may round their factors to bfloat16
  std::function<void(double)> progress = nullptr;  // share of the iterations done
};

struct TuningOutcome {
  // Mean squared error of the block's output on the same sequences, an eighth of all that is not learned
  // from; after <= before.
  double before = 0, after = 0;
  int kept = 0;  // iterations, over all attempts, after which the kept codes stood; 0: the ones given
};

// block: the weights `rounded` was made of, with norms, biases and the linears that are not in `rounded`, as
// they will be read. rounded: by module, integer codes with one scale per group; what changes is codes, by
// one at most, and scales. Throws kCancelled.
TuningOutcome tune_block(const ModelConfig& config, const BlockSpec& spec, const BlockWeights& block,
                         const BlockTuning& tuning, std::map<std::string, RoundedWeight>& rounded);

}  // namespace awq
