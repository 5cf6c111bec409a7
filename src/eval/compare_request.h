// A whole comparison of methods from an open checkpoint, as `awq compare` and awq.compare ask for it.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "eval/compare_json.h"
#include "quant/request.h"
#include "text/text_source.h"

namespace awq {

struct CompareRequest : QuantizeRequest {
  // METHOD[:fast|best|sym|bN|gN]..., also salient-fp16[-weight|-random]; empty: default_methods().
  std::vector<std::string> methods;
  std::string protocol = "raw2048";
  int64_t limit = 0;  // windows of each text; 0: all
  bool no_speed = false, no_prompts = false;
  StatsFiles stats;
};

std::vector<std::string> default_methods();

// The text, or for text that is tokens already the ids and only the name of the text.
struct CalibrationText {
  TextSet text;
  std::optional<std::vector<int32_t>> ids = std::nullopt;
};

struct CompareResult {
  Comparison comparison;
  CompareFacts facts;  // without a command
};

// Errors: those of plan_quantize; kBadArgument for a method that is not one, a text shorter than a window, no calibration text, a
// token id outside the vocabulary; kNoMemory where the models do not fit side by side.
CompareResult run_compare(const Checkpoint& checkpoint, const CompareRequest& request, const CalibrationText& calibration,
                          const std::vector<TextSet>& texts, const ProgressFn& progress);

}  // namespace awq
