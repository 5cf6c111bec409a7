// The quantization itself: one loop over the blocks. Peak memory is one block, the hidden states and the embedding.
#pragma once
#include <string>
#include <vector>

#include "base/progress.h"
#include "checkpoint/job_directory.h"
#include "checkpoint/writer.h"
#include "kernels/quant_backend.h"
#include "quant/check.h"
#include "quant/plan.h"

namespace awq {

struct LayerReport {
  int64_t block = 0;
  std::string module;
  double relative_error = 0;  // tr(E G Eᵀ) / tr(W G Wᵀ) on the statistics' tokens; NaN when nothing was measured
  double group_loss = 0;      // Gram loss of the scale group this linear belongs to
  double group_awq_loss = 0;  // the same under AutoAWQ's rule; 0 for methods without a scale search
  std::string chosen;
};

struct QuantizeResult {
  std::vector<LayerReport> layers;
  std::vector<double> depth_error;  // per block: relative error of the hidden states on the held-out text; empty without check
  std::optional<CheckResult> check;
  DType dtype = DType::kF16;
  float activation_max = 0;  // largest input of a linear or hidden state seen
};

struct QuantizeInputs {
  TokenSequences calibration;  // may be empty for rtn
  TokenSequences heldout;      // empty: no check
  Precision precision = Precision::kBf16;  // of the calibration forward on the CPU
  QuantBackend* backend = nullptr;         // the device to run on (make_cuda_quant_backend); null: the CPU
};

// The dtype of the unquantized tensors: as asked, or for "auto" float16 unless activations of a short probe run reach a
// quarter of its range. tokens: the probe's; empty: float16 for F16, F32 and GGUF sources, else bfloat16. backend as in QuantizeInputs.
DType choose_dtype(const Checkpoint& checkpoint, const QuantizePlan& plan, const QuantizeOptions& options, const TokenSequences& probe,
                   QuantBackend* backend = nullptr);

// Adds every planned tensor to the writer, after each block a record to the job, and continues from the newest record whose
// data are intact. Deterministic for any number of threads on one instruction-set path, however often it was interrupted.
QuantizeResult quantize_blocks(const Checkpoint& checkpoint, const QuantizePlan& plan, const QuantizeOptions& options,
                               const QuantizeInputs& inputs, DType dtype, CheckpointWriter& writer, JobDirectory& job,
                               const ProgressFn& progress);

}  // namespace awq
