// What `awq diagnose` found, as tables, a JSON object, a page and CSV files.
#pragma once
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "eval/diagnose.h"
#include "eval/model_plan.h"
#include "quant/sample_count.h"
#include "report/html.h"
#include "tokenizer/tokenizer.h"

namespace awq::cli {

struct DiagnoseFacts {
  std::string model, quantized, calibration, text, command, machine;
  int64_t calibration_tokens = 0, seq_len = 0;
  SampleChoice samples;
  double seconds = 0;
  std::shared_ptr<const Tokenizer> tokenizer;
  const TokenSequences* measured = nullptr;
};

// The units that cost most, first; at most `rows`.
report::Table units_table(const Diagnosis& d, size_t rows);
// Linears by error; of a given checkpoint by error over what its scheme would leave.
report::Table linears_table(const Diagnosis& d, size_t rows);
nlohmann::ordered_json diagnose_json(const Diagnosis& d, const DiagnoseFacts& facts, const std::optional<ModelPlan>& plan);
std::string diagnose_page(const Diagnosis& d, const DiagnoseFacts& facts, const std::optional<ModelPlan>& plan);
// units.csv, linears.csv, depth.csv and tokens.csv in a folder that is made if need be.
void write_csv(const std::filesystem::path& folder, const Diagnosis& d, const DiagnoseFacts& facts);

}  // namespace awq::cli
