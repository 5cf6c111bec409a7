// Blocks of a model on a device, one at a time over whole sequences, with what flows into their linears summed there: calibration
// needs no resident model.
#pragma once
#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/quant_backend.h"
#include "model/config.h"

namespace awq {

struct BlockSpec;
struct BlockWeights;

// What flowed into the linears of one site.
struct InputSums {
  int64_t dim = 0, tokens = 0;
  GramMatrix gram;                 // XᵀX
  std::vector<double> abs_sum;     // [dim], Σ|x|
  std::vector<float> channel_max;  // [dim], largest |x|
};
using SiteSums = std::array<InputSums, 4>;  // by Site

// Final norm [hidden] and output matrix [vocab, hidden] of one side of a comparison.
struct DeviceHead {
  const float* norm = nullptr;
  const Tensor* matrix = nullptr;
};

// Of one token: divergence of the result's distribution from the source's, and the log-probability of the token that follows.
struct DeviceLoss {
  double kl = 0, logprob_source = 0, logprob = 0;
  int same_top = 0;
};

class BlockRunner {
 public:
  virtual ~BlockRunner() = default;
  // The block that advance() runs from now on: norms and biases of `block`, weights of `weights` (by module), rounded to 16 bits.
  virtual void use(const BlockSpec& spec, const BlockWeights& block, const std::map<std::string, QuantMatrix>& weights) = 0;
  // states [tokens, hidden] of sequences of so many tokens, one after the other, in host memory that stays where it is as long as the
  // runner lives; updated in place. `sums`, unless null, is overwritten.
  virtual void advance(std::span<const int64_t> lengths, std::span<float> states, SiteSums* sums) = 0;
  virtual void release() = 0;  // the block's weights; advance() wants the next use()
  // Of rows of two states behind the last block, each with its own head; targets [rows].
  virtual std::vector<DeviceLoss> compare(std::span<const float> source, const DeviceHead& source_head, std::span<const float> result,
                                          const DeviceHead& result_head, std::span<const int32_t> targets) = 0;
};

// activations: F16 or BF16. `backend` is one of make_cuda_quant_backend and outlives the runner. Throws kUnsupported for shapes the
// kernels do not take.
std::unique_ptr<BlockRunner> make_cuda_block_runner(std::shared_ptr<const ModelConfig> config, DType activations, QuantBackend& backend);

}  // namespace awq
