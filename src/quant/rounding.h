// From dense weights to quantized ones, for one block: the methods behind --method.
#pragma once
#include <map>
#include <string>

#include "quant/awq_scale.h"
#include "quant/block_tuning.h"
#include "quant/pipeline.h"

namespace awq {

struct BlockRounding {
  std::map<std::string, RoundedWeight> quantized;  // by module
  std::vector<LayerReport> reports;
};

struct RoundingContext {
  const QuantizePlan& plan;
  const QuantizeOptions& options;
  DType dtype;  // of the unquantized tensors; scales are rounded to it too
  Precision precision = Precision::kBf16;
  const HiddenStates* inputs = nullptr;  // of the block, for methods that replay it (keeps_inputs); else null
  QuantBackend& backend = cpu_quant_backend();  // where the statistics' Gram matrices are
  BlockMatrices* matrices = nullptr;  // the block's weights there; null: the CPU takes them as they are in the block
  const BlockTuning* tuning = nullptr;  // of --quality max, on the CPU; null: no tuning
};

// Whether the method needs RoundingContext::inputs; has all it does in a QuantBackend; and needs tokens kept in the statistics.
inline bool keeps_inputs(const std::string& method) { return method == "autoawq"; }
inline bool runs_on_device(const std::string& method) { return method == "awq" || method == "gptq" || method == "rtn"; }
inline bool keeps_sample(const std::string& method) { return method == "autoawq" || method == "smoothquant"; }

// The method of context.options on one block: rounds every planned linear; on a device the results stay there. Methods that fold scales leave `block` with the
// scaled weights and norms (values of dtype). Errors are measured where stats hold tokens.
BlockRounding round_block(const RoundingContext& context, int64_t layer, const BlockSpec& spec, const StatsObserver& stats,
                          BlockWeights& block);

}  // namespace awq
