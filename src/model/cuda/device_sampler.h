// Draws tokens from logits that lie on the device.
#pragma once
#include <cstdint>
#include <span>

#include "model/cuda/pinned.h"
#include "model/cuda/sample_plan.h"

namespace awq {

class DeviceSampler {
 public:
  // For rows of logits [wanted, vocab] that are to be drawn: tokens[i] of wanted[i], -1 where the caller has to. The others' stay as
  // they are. Waits for the stream; the logits are as before then.
  void draw(float* logits, int64_t vocab, std::span<const RowDraw> wanted, cudaStream_t stream, int32_t* tokens);

 private:
  void grow(int64_t vocab, cudaStream_t stream);

  SamplePlan plan_;
  Pinned sent_host_, ids_host_;
  cuda::Buffer sent_, before_, scratch_, parts_, ids_;
};

}  // namespace awq
