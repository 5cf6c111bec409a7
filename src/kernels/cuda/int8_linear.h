// Linear layers with int8 weights and int8 inputs on an NVIDIA GPU (SmoothQuant, Xiao et al. 2023, section 3: per-channel weights,
// per-token dynamic activations).
#pragma once
#include "kernels/cuda/linear.h"

namespace awq::cuda {

class Int8Linear {
 public:
  // Of scheme w8gc-a8. Uploads to the current device; weights must not be written by work on a stream. Throws kUnsupported for other
  // schemes and for inputs that are no multiple of 16, kNoMemory when the device is full.
  explicit Int8Linear(const QuantWeight& w);
  static bool takes(const QuantWeight& w);

  // Inputs become int8 by token first, in scratch of the context (reserve() where a graph is captured). Sums are integers, so a token's
  // results are the same for any number of tokens. kAct, or kGated with gates and ups stacked by strips: those are the same for any number
  // with an invariant context, else few tokens round gates and ups before they meet.
  void run(Context& context, Act act, const Product& product, cudaStream_t stream) const;
  static void reserve(Context& context, int64_t tokens, int64_t in);

  int64_t out() const { return out_; }
  int64_t in() const { return in_; }
  int64_t bytes() const { return codes_.bytes() + scales_.bytes(); }

 private:
  void multiply(Context& context, Act act, const Product& product, bool gated, cudaStream_t stream) const;

  int64_t out_ = 0, in_ = 0;
  Buffer codes_, scales_;
  CUtensorMap map_ = {};
};

}  // namespace awq::cuda
