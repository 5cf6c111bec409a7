// Linear layers y = x Wᵀ of 4-bit weights on an NVIDIA GPU: packed once, then run for any number of tokens.
#pragma once
#include <memory>

#include "kernels/cuda/cublas.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/pick.h"
#include "weights/quant_weight.h"

namespace awq::cuda {

// What the linears of one stream share: facts about the current device, and scratch memory, all of it
// allocated here, so that run() allocates nothing and can be captured into a graph. One stream uses a context
// at a time.
class Context {
 public:
  // Throws kUnsupported without a CUDA device of compute capability 8.0 or later.
  Context();
  const DeviceTraits& traits() const { return traits_; }
  const SplitWorkspace& split() const { return split_; }
  Cublas& cublas();            // opened at the first call; for a graph, call it before capturing
  void* dense(int64_t bytes);  // scratch for dequantized rows, kDenseBytes at most
  static constexpr int64_t kDenseBytes = int64_t{256} << 20;

 private:
  DeviceTraits traits_;
  Buffer partials_, flags_, dense_;
  SplitWorkspace split_;
  std::unique_ptr<Cublas> cublas_;
};

class Linear {
 public:
  // Uploads to the current device. Weights must not be written by work on a stream: run() fetches them before
  // the kernels in front of it have ended (programmatic dependent launch). Throws kUnsupported for what
  // pack.h does not take, kNoMemory when the device is full.
  explicit Linear(const QuantWeight& w);
  // A packed weight that lies on the device already, as pack.h lays it out; not owned.
  explicit Linear(const PackedView& view);

  // x [tokens, in], y [tokens, out] with row stride ldy >= out: fp16 or bf16 on the device, x 16-byte
  // aligned; other columns of y stay untouched. fp32 sums; the result is the same for every run on the same
  // kind of device, but sums are ordered by the number of tokens. tokens may be 0.
  void run(Context& context, Act act, const void* x, int64_t tokens, void* y, int64_t ldy,
           cudaStream_t stream) const;
  // As run(), by the way given: for the benchmark and the tests.
  void run(Context& context, const Choice& choice, Act act, const void* x, int64_t tokens, void* y,
           int64_t ldy, cudaStream_t stream) const;

  int64_t out() const { return view_.out; }
  int64_t in() const { return view_.in; }
  int64_t bytes() const;  // resident, what a decode step must read
  const PackedView& view() const { return view_; }

 private:
  void describe();  // codes for the tensor copy engine, in boxes of one and two blocks
  void run_dense(Context& context, Act act, const void* x, int64_t tokens, void* y, int64_t ldy,
                 cudaStream_t stream) const;

  PackedView view_;
  Buffer codes_, scales_;
  CUtensorMap maps_[2] = {};
};

}  // namespace awq::cuda
