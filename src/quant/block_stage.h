// Where the blocks of a quantization run and are rounded: on the CPU, or on a device through its QuantBackend and a BlockRunner. The
// pipeline asks both the same things in the same order.
#pragma once
#include <memory>
#include <optional>

#include "quant/check.h"
#include "quant/rounding.h"

namespace awq {

class BlockStage {
 public:
  virtual ~BlockStage() = default;
  // Block `layer` of the source with norms and biases that may be changed; on a device the next one is read beside the work on this one.
  virtual BlockWeights load(int64_t layer) = 0;
  // The block that advance() runs from now on, whatever its weights are stored as.
  virtual void use(const BlockSpec& spec, const BlockWeights& weights) = 0;
  virtual void advance(HiddenStates& states, StatsObserver* stats) = 0;
  // The same, and the largest input of a linear.
  virtual float advance_and_watch(HiddenStates& states) = 0;
  // round_block of the block in use; what it leaves is in host memory.
  virtual BlockRounding round(const RoundingContext& context, int64_t layer, const BlockSpec& spec, const StatsObserver& stats,
                              BlockWeights& weights) = 0;
  // One side's final norm [hidden], in F32, and output matrix.
  struct Head {
    const Tensor& norm;
    const Tensor& matrix;
  };
  virtual CheckResult compare(const HiddenStates& source, const Head& source_head, const HiddenStates& result, const Head& result_head,
                              const ProgressFn& progress) = 0;
  // Blocks pass so fast that keeping each one's states would take most of the time.
  virtual bool quick() const { return false; }
};

// backend: a device's (quant_backend.h), or null for the CPU. `precision` is that of the CPU's products.
std::unique_ptr<BlockStage> make_block_stage(const Checkpoint& checkpoint, std::shared_ptr<const ModelConfig> config, Precision precision,
                                             QuantBackend* backend);

}  // namespace awq
