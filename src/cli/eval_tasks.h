// `awq eval` on tasks: multiple choice, GSM8K, HumanEval, MT-Bench.
#pragma once
#include <string>
#include <vector>

#include "cli/options.h"

namespace awq::cli {

struct EvalOptions {
  std::string model, task, data = "builtin", protocol = "raw2048", reference, precision = "exact";
  int head_bits = 0;
  bool invariant = false;
  std::string kv_dtype;  // of texts: what a cache holds keys and values in; empty: no cache
  int64_t limit = 0;  // windows of a text, items of a task; 0: all
  // Of tasks only:
  std::string fewshot, samples;
  int64_t shots = -1;  // -1: as many as is usual
  int64_t answers = 1;  // to each problem of HumanEval
  float temperature = 0.2F;
  uint64_t seed = 0;
  // Of mtbench: an OpenAI-compatible server ("https://api.openai.com/v1"), the model there, tokens of an answer.
  std::string judge, judge_model;
  int64_t max_tokens = 1024;
};

std::vector<std::string> task_names();
int run_task(const Context& context, const EvalOptions& options);

}  // namespace awq::cli
