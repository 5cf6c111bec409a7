// Runs a task on a model: item by item, with what a TaskLog has already.
#pragma once
#include "base/progress.h"
#include "eval/choice_task.h"
#include "eval/task_result.h"

namespace awq {

struct TaskRun {
  std::vector<TaskItem> items;
  int64_t tokens_asked = 0, tokens_run = 0;  // prefixes are shared: fewer run than are asked about
  int64_t restored = 0;                      // items that the log had
};

// "acc,none" and, where the task has it, "acc_norm,none".
std::vector<std::string> choice_metrics(const ChoiceTask& task);
TaskRun run_choice_task(const Model& model, const Tokenizer& tokenizer, const ChoiceTask& task, const ChoiceData& data, TaskLog& log,
                        const ProgressFn& progress);

}  // namespace awq
