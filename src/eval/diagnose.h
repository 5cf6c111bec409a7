// What each part of a model costs when it is quantized: errors of the linears on a text, and how much the predictions move
// when one part alone, or all but one, is quantized.
#pragma once
#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "quant/check.h"
#include "quant/plan.h"
#include "quant/sequences.h"

namespace awq {

struct DiagnoseOptions {
  QuantizeOptions quantize;  // how, unless a quantized checkpoint is given
  int64_t exact = 24;        // units whose effect is measured, those expected to matter most first; the others are estimated
  std::vector<Scheme> candidates;  // other schemes whose errors are estimated, for a plan
  Precision precision = Precision::kExact;  // of the measured forward passes
};

struct DiagnoseInputs {
  TokenSequences calibration;  // for statistics, and for quantizing
  TokenSequences measured;
  Precision precision = Precision::kBf16;  // of the calibration forward
};

struct LinearDiagnosis {
  int64_t block = 0;
  std::string module, role;
  Scheme scheme;
  double relative_error = 0;  // tr(E G Eᵀ) / tr(W G Wᵀ), G of the calibration text
  // Of a given checkpoint: what searched ranges in the checkpoint's commonest scheme leave of this linear; else NaN.
  double expected_error = 0;
};

// The linears of a block that read one site: loaders fuse them, so they get one scheme.
struct Unit {
  int64_t block = 0;
  Site site = Site::kAttentionIn;
  std::string name;  // "3 q,k,v"
  std::vector<std::string> modules;
  Scheme scheme;  // of the first
  int64_t weights = 0;

  bool has(const std::string& module) const { return std::find(modules.begin(), modules.end(), module) != modules.end(); }
};

struct UnitDiagnosis {
  Unit unit;
  double relative_error = 0;  // as of a linear, all its linears together
  // Change of the block's output when only this unit is quantized: mean over tokens of |change|² / |state|².
  double block_change = 0;
  double kl = 0;               // nats per target when only this unit is quantized
  bool measured = false;       // else kl is block_change times what measured changes of this block cost
  double kl_rest = 0;          // by how much KL falls when all but this unit are quantized; NaN where not measured
  double perplexity = 0, perplexity_rest = 0;  // when only this unit, and all but it, are quantized; NaN where not measured
  double outlier = 0;          // largest mean |input| of a channel over the median channel's
  double channel_max = 0;      // largest |input|
  std::vector<float> channel_mean, channel_scale;  // mean |input| of each channel, and what the fold divides it by
  std::vector<double> candidate_errors;  // relative_error under DiagnoseOptions::candidates; NaN where it does not fit
};

struct TokenDiagnosis {
  int64_t sequence = 0, position = 0;  // of the target
  TokenLoss loss;
};

// By block. Changes: mean over tokens of |change|² / |state|² of the states after the block.
struct DepthDiagnosis {
  double change_alone = 0, change_along = 0;  // only this block quantized; all up to it
  double kl_alone = 0, kl_along = 0;          // of the predictions
};

struct Diagnosis {
  Scheme base;  // the commonest scheme
  std::string scheme_text;
  CheckResult total;  // everything quantized
  std::vector<LinearDiagnosis> linears;
  std::vector<UnitDiagnosis> units;  // by block, then site
  std::vector<DepthDiagnosis> depth;
  std::vector<TokenDiagnosis> tokens;  // in order
  double seconds_quantize = 0, seconds_measure = 0;
};

// quantized: a checkpoint made from `source`, in any form whose linears are known; null: options.quantize says how. All blocks of
// both stay in memory. Errors: those of plan_quantize; kBadFile when `quantized` is not made from `source`.
Diagnosis diagnose(const Checkpoint& source, const Checkpoint* quantized, const DiagnoseInputs& inputs, const DiagnoseOptions& options,
                   const ProgressFn& progress = {});

// Memory that a diagnosis takes at most, about: both models, the codes of the quantized one, the states in front of every block and
// the source's logits. plan: of the source, with options.quantize.
int64_t diagnosis_bytes(const QuantizePlan& plan, const TokenSequences& measured);

// Estimated KL of a unit under each candidate, from its KL as it is and the errors; the sum over units exceeds or falls below the
// KL of all together, since errors add up or cancel along the way.
double candidate_kl(const UnitDiagnosis& unit, size_t candidate);

}  // namespace awq
