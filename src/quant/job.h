// A whole quantization from an open checkpoint to a finished directory: plan, write, check, describe.
#pragma once
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/manifest.h"
#include "quant/pipeline.h"

namespace awq {

// Calibration or held-out text as token ids, with what the manifest says about it.
struct NamedTokens {
  std::string name;    // "builtin" or a file name
  std::string sha256;  // of the text
  TokenSequences sequences;
};

struct QuantizeJob {
  QuantizeOptions options;
  std::filesystem::path output;
  bool force = false;
  NamedTokens calibration;             // no sequences: none (rtn)
  std::optional<NamedTokens> heldout;  // empty: no check
  Precision precision = Precision::kBf16;
  std::vector<std::pair<std::string, std::string>> manifest_options;  // as given on the command line
  std::string command;                                                // public_command(argv), for the model card
};

struct JobResult {
  QuantizePlan plan;
  QuantizeResult quantized;
  Manifest manifest;
  int64_t output_bytes = 0;  // all files
  std::string worst;         // module with the largest relative error, "" when nothing was measured
};

// Leaves nothing behind when it throws. Errors: those of plan_quantize and CheckpointWriter; kCancelled.
JobResult run_quantize(const Checkpoint& checkpoint, const QuantizeJob& job, const ProgressFn& progress);

}  // namespace awq
