// The report part of a journal record: what a run has learnt so far, exact to the last bit, for the run that continues it.
#pragma once
#include <string>
#include <string_view>

#include "quant/pipeline.h"

namespace awq {

struct JobReport {
  QuantizeResult result;
  std::string manifest_sha256;  // of the finished manifest.json; empty until the output is complete
};

std::string report_json(const JobReport& report);
// Throws kBadFile naming `where`.
JobReport parse_report(std::string_view json, const std::string& where);

}  // namespace awq
