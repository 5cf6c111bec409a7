// What a task found, item by item; means with their standard errors, as lm-evaluation-harness states them; and the comparison
// of two models that answered the same items.
#pragma once
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

namespace awq {

struct TaskItem {
  std::string subject;  // empty where the task has none
  int64_t index = 0;    // in the file, or among its subject's items
  std::vector<double> scores;  // in the order of the task's metrics, 0..1
  nlohmann::ordered_json details;  // log-likelihoods or answers, for --samples
};

struct TaskScore {
  double mean = 0, stderr_of_mean = 0;  // of a sample: n - 1 in the denominator; 0 for a single item
  int64_t items = 0;
};
TaskScore task_score(std::span<const double> scores);
// Of parts weighted by their sizes: the mean of all items; the standard error pooled over the parts, as the harness does.
TaskScore pooled_score(std::span<const TaskScore> parts);

// McNemar's test and the interval of the difference of two proportions on the same items (Agresti, Categorical Data
// Analysis, 2nd ed., 10.1). For scores that are no yes or no (pass@k) the interval alone: p is NaN.
struct PairedScore {
  int64_t items = 0;
  int64_t only_model = 0, only_reference = 0;  // items that only one of them has right
  double difference = 0;                       // model - reference
  double ci95 = 0;                             // half width, from the differences item by item
  double p = 1;                                // exact, two-sided: chance of a split as uneven as this between equals
  bool tie = true;                             // the interval holds 0
};
// In the same order and of the same length.
PairedScore paired_score(std::span<const double> model, std::span<const double> reference);

struct TaskReport {
  std::string task;
  std::vector<std::string> metrics;  // "acc,none", "exact_match,strict-match"
  int version = 0;
  int64_t shots = 0;
  std::vector<TaskItem> items;
  std::map<std::string, int64_t> available = {};  // items of each subject in the file, before --limit
};
// The harness's form: "results", "groups", "group_subtasks", "versions", "n-shot", "higher_is_better", "n-samples".
// MMLU has one task for each subject, groups for its four fields and for all.
nlohmann::ordered_json harness_json(const TaskReport& report);
// "paired": {metric: {...}}; `reference` holds the same items, in any order. kBadArgument where one is missing.
nlohmann::ordered_json paired_json(const TaskReport& report, const std::vector<TaskItem>& reference);
std::map<std::string, PairedScore> paired_scores(const TaskReport& report, const std::vector<TaskItem>& reference);

// Items as they get done, one JSON object a line after a first line that says what was run: a later run of the same goes on
// from there. A last line that a stop cut off is done again.
class TaskLog {
 public:
  TaskLog() = default;  // keeps nothing
  // kBadArgument: the file is another run's; kBadFile: it is no such file; kIo.
  TaskLog(const std::string& path, const nlohmann::ordered_json& identity);
  const TaskItem* find(const std::string& subject, int64_t index) const;
  void add(const TaskItem& item);
  size_t restored() const { return done_.size(); }

 private:
  std::string path_;
  std::map<std::pair<std::string, int64_t>, TaskItem> done_;
};
// The items of a finished --samples file, and what its first line says.
struct LoggedTask {
  nlohmann::ordered_json identity;
  std::vector<TaskItem> items;
};
LoggedTask read_task_log(const std::string& path);

}  // namespace awq
