// Tasks whose answers the model writes: GSM8K (Cobbe et al. 2021), judged by the last number, and HumanEval (Chen et al. 2021), whose
// programs run against their tests. Prompts, where an answer ends, and scores are lm-evaluation-harness's (0.4.13: gsm8k, humaneval).
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "eval/sandbox.h"
#include "eval/task_run.h"
#include "eval/task_text.h"

namespace awq {

struct AnswerItem {
  std::string prompt, target;
  std::string test;  // HumanEval: what is run behind prompt and answer
};

struct AnswerTask {
  const char* name;
  int64_t max_tokens;
  std::vector<std::string> until;  // an answer ends in front of the first of them
  int version;
};
const AnswerTask& gsm8k_task();
const AnswerTask& humaneval_task();

struct AnswerData {
  std::vector<AnswerItem> items;
  std::string name, sha256, fewshot_sha256;
  int64_t shots = 0, available = 0;
};
// {"question": ..., "answer": "... #### 72"}; examples of the same form, the first `shots`.
AnswerData read_gsm8k(const std::string& path, const std::string& fewshot, int64_t shots, int64_t limit);
// {"task_id", "prompt", "entry_point", "canonical_solution", "test"}.
AnswerData read_humaneval(const std::string& path, int64_t limit);

// How answers are drawn: one, the likeliest, or several at a temperature.
struct Drawing {
  int64_t answers = 1;
  float temperature = 0.2F, top_p = 0.95F;  // of several
  uint64_t seed = 0;
};

// The number an answer gives: "strict" behind the first "#### ", "flexible" the last one in it. "[invalid]" where there is none.
std::string strict_number(std::string_view answer);
std::string flexible_number(std::string_view answer);
// exact_match with gsm8k's rules: case, commas, dollar signs, all up to the last "#### " and a final point do not count.
bool same_number(std::string_view found, std::string_view target);

// Unbiased estimate of the chance that one of k answers is right when `right` of n are (Chen et al. 2021, equation 1).
double pass_at_k(int64_t n, int64_t right, int64_t k);
// Those k of {1, 2, 5, 10, 20, 50, 100} that n answers can estimate.
std::vector<int64_t> pass_ks(int64_t n);

// "exact_match,strict-match" and "exact_match,flexible-extract"; "pass@1,create_test", ...
std::vector<std::string> answer_metrics(const AnswerTask& task, const Drawing& drawing);

struct AnswerModel {
  std::shared_ptr<const Model> model;
  std::shared_ptr<const Tokenizer> tokenizer;
  std::vector<int32_t> end_ids;
};
// sandbox: of HumanEval.
TaskRun run_answer_task(const AnswerModel& model, const AnswerTask& task, const AnswerData& data, const Drawing& drawing, const Sandbox* sandbox,
                        TaskLog& log, const ProgressFn& progress);

}  // namespace awq
