// From dense weights to quantized ones, for one block: the methods behind --method.
#pragma once
#include <map>
#include <string>

#include "quant/awq_scale.h"
#include "quant/pipeline.h"

namespace awq {

struct BlockRounding {
  std::map<std::string, QuantWeight> quantized;  // by module
  std::vector<LayerReport> reports;
};

struct RoundingContext {
  const QuantizePlan& plan;
  const QuantizeOptions& options;
  DType dtype;  // of the unquantized tensors; scales are rounded to it too
};

// Chooses scales for every scale group, folds them into `block` (its weights become the scaled ones, its norms values
// of dtype) and rounds every planned linear.
BlockRounding round_awq(const RoundingContext& context, int64_t layer, const BlockSpec& spec, const StatsObserver& stats,
                        BlockWeights& block);
// Round to nearest. Errors are measured when stats hold tokens.
BlockRounding round_rtn(const RoundingContext& context, int64_t layer, const BlockSpec& spec, const StatsObserver& stats,
                        BlockWeights& block);

}  // namespace awq
