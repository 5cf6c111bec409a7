// What a caller asks a quantization for, in the spelling of the command line: it is recorded in the output, so that equal
// requests give equal bytes whoever makes them.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "quant/plan.h"
#include "quant/sample_count.h"

namespace awq {

struct QuantizeRequest {
  std::string model, output, group = "auto", calib = "builtin", samples = "128";
  QuantizeOptions quantize;
  int64_t seq_len = 512;
  std::string plan;  // a file; load_plan reads it
  bool cuda = false;  // --device cuda

  // quantize.group from `group`: "auto" or a number.
  void resolve_group();
  // quantize.mixed from `plan`, if there is one.
  void load_plan();
  bool auto_samples() const { return samples == "auto"; }
  int64_t sample_count() const { return auto_samples() ? kMostSamples : std::stoll(samples); }  // at most
};

// The sequences to calibrate with: as many as the request says, or for "auto" as choose_samples finds on the CPU for `options`
// (the request's, or those of the most demanding of several); with --device cuda "auto" is 128.
SampleChoice calibration_sequences(const Checkpoint& checkpoint, const QuantizeRequest& request, const QuantizeOptions& options,
                                   std::span<const int32_t> stream, const ProgressFn& progress);

// For the manifest: names and values.
std::vector<std::pair<std::string, std::string>> manifest_options(const QuantizeRequest& request);
// "awq quantize ..." that writes to `output`, publishable (public_command).
std::string quantize_command(const QuantizeRequest& request, const std::string& output);

}  // namespace awq
