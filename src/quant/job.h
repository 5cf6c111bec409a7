// A whole quantization from an open checkpoint to a finished directory: plan, write, check, describe.
#pragma once
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/job_directory.h"
#include "checkpoint/manifest.h"
#include "quant/pipeline.h"

namespace awq {

// Calibration or held-out text as token ids, with what the manifest says about it.
struct NamedTokens {
  std::string name;    // "builtin" or a file name
  std::string sha256;  // of the text
  TokenSequences sequences;
};

// The check runs on this much of the built-in held-out text, evenly spaced: enough for an interval of about a tenth of the KL.
inline constexpr int64_t kHeldoutSeqLen = 512, kHeldoutSequences = 32;

struct QuantizeJob {
  QuantizeOptions options;
  std::filesystem::path output;
  bool force = false;
  JobStart start = JobStart::kContinue;
  NamedTokens calibration;             // no sequences: none (rtn)
  std::optional<NamedTokens> heldout;  // empty: no check
  Precision precision = Precision::kBf16;
  std::shared_ptr<QuantBackend> backend;  // the device it runs on; null: the CPU
  std::vector<std::pair<std::string, std::string>> manifest_options;  // as given on the command line
  std::string command;                                                // public_command(argv), for the model card
};

struct JobResult {
  QuantizePlan plan;
  QuantizeResult quantized;
  Manifest manifest;
  int64_t output_bytes = 0;  // all files
  std::string worst;         // module with the largest relative error, "" when nothing was measured
  int64_t resumed_blocks = 0;  // done by an earlier run
  int64_t device_peak_bytes = 0;  // of a device's memory; 0 on the CPU
};

// kUnsupported unless the method and quality run on a device.
void check_runs_on_device(const QuantizeOptions& options);

// Nothing stands under the output's name when it throws; from the first finished block on, what is done is kept beside it
// (JobDirectory) and the same job continues there, with the same bytes in the end. Errors: those of plan_quantize,
// JobDirectory and CheckpointWriter; kCancelled; kNoMemory. Those that leave something to continue say so.
JobResult run_quantize(const Checkpoint& checkpoint, const QuantizeJob& job, const ProgressFn& progress);

}  // namespace awq
