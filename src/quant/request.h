// What a caller asks a quantization for, in the spelling of the command line: it is recorded in the output, so that equal
// requests give equal bytes whoever makes them.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "quant/plan.h"

namespace awq {

struct QuantizeRequest {
  std::string model, output, group = "auto", calib = "builtin", samples = "auto";
  QuantizeOptions quantize;
  int64_t seq_len = 512;
  std::string plan;  // a file; load_plan reads it
  bool cuda = false;  // --device cuda

  // quantize.group from `group`: "auto" or a number.
  void resolve_group();
  // quantize.mixed from `plan`, if there is one.
  void load_plan();
  int64_t sample_count() const { return samples == "auto" ? 128 : std::stoll(samples); }
};

// For the manifest: names and values.
std::vector<std::pair<std::string, std::string>> manifest_options(const QuantizeRequest& request);
// "awq quantize ..." that writes to `output`, publishable (public_command).
std::string quantize_command(const QuantizeRequest& request, const std::string& output);

}  // namespace awq
