// MT-Bench (Zheng et al. 2023, "Judging LLM-as-a-judge with MT-Bench and Chatbot Arena"): questions of two turns, answered in the
// model's own chat template and rated from 1 to 10 by another model. Temperatures by category and the answers' length are those of
// the authors' FastChat; the judge's instruction is worded here, so that ratings compare models under one judge and not with
// published figures.
#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "eval/answer_task.h"
#include "eval/task_run.h"
#include "text/chat.h"

namespace awq {

struct MtBenchItem {
  int64_t id = 0;
  std::string category;
  std::vector<std::string> turns;       // two
  std::vector<std::string> references;  // answers to compare with, one for each turn; empty where there are none
};

struct MtBenchData {
  std::vector<MtBenchItem> items;
  std::string name, sha256;
  int64_t available = 0;
};
// {"question_id", "category", "turns": [2 texts], "reference": [2 texts]?}
MtBenchData read_mtbench(const std::string& path, int64_t limit);

// 0.7 for writing and roleplay, 0.1 for stem and humanities, else 0.
float mtbench_temperature(const std::string& category);
// What the judge is asked about the answers so far: to the last of them.
std::string judge_question(const MtBenchItem& item, const std::vector<std::string>& answers);
// The number in the last "[[...]]", 1 to 10; empty where there is none.
std::optional<double> judge_rating(const std::string& verdict);

// Asks the judge: a system and a user message, to one text.
using JudgeFn = std::function<std::string(const std::string& system, const std::string& question)>;

// "rating,turn-1", "rating,turn-2", "rating,mean": 1 to 10.
std::vector<std::string> mtbench_metrics();
// max_tokens: of an answer. An answer of the judge without a rating is asked for again twice; then kBadFile.
TaskRun run_mtbench(const AnswerModel& model, const ChatRenderer& chat, const MtBenchData& data, int64_t max_tokens, uint64_t seed,
                    const JudgeFn& judge, TaskLog& log, const ProgressFn& progress);

}  // namespace awq
