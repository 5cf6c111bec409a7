#include "eval/task_run.h"

#include <algorithm>

namespace awq {
namespace {

constexpr size_t kItemsAtOnce = 16;  // scored together, then logged

TaskItem item_of(const ChoiceTask& task, const ChoiceItem& asked, int64_t index, const ChoiceOutcome& outcome) {
  TaskItem item{asked.subject, index, {outcome.right ? 1.0 : 0.0}, {}};
  if (task.normalised) item.scores.push_back(outcome.right_norm ? 1.0 : 0.0);
  item.details = {{"target", asked.gold}, {"chosen", outcome.chosen}};
  if (task.normalised) item.details["chosen_norm"] = outcome.chosen_norm;
  item.details["logprobs"] = outcome.logprobs;
  return item;
}

}  // namespace

std::vector<std::string> choice_metrics(const ChoiceTask& task) {
  if (task.normalised) return {"acc,none", "acc_norm,none"};
  return {"acc,none"};
}

TaskRun run_choice_task(const Model& model, const Tokenizer& tokenizer, const ChoiceTask& task, const ChoiceData& data, TaskLog& log,
                        const ProgressFn& progress) {
  TaskRun run;
  LikelihoodScorer scorer(model);
  std::map<std::string, int64_t> counts;
  std::vector<int64_t> index;
  for (const ChoiceItem& item : data.items) index.push_back(counts[item.subject]++);
  run.items.resize(data.items.size());
  for (size_t begin = 0; begin < data.items.size(); begin += kItemsAtOnce) {
    check_cancelled();
    const size_t end = std::min(begin + kItemsAtOnce, data.items.size());
    std::vector<LikelihoodRequest> requests;
    std::vector<size_t> open;
    for (size_t i = begin; i < end; ++i) {
      if (const TaskItem* done = log.find(data.items[i].subject, index[i])) {
        run.items[i] = *done;
        ++run.restored;
        continue;
      }
      open.push_back(i);
      for (LikelihoodRequest& r : choice_requests(data.items[i], tokenizer)) requests.push_back(std::move(r));
    }
    const std::vector<Likelihood> found = scorer.score(requests);
    size_t at = 0;
    for (const size_t i : open) {
      std::vector<double> logprobs;
      for (size_t c = 0; c < data.items[i].lengths.size(); ++c) logprobs.push_back(found[at++].logprob);
      run.items[i] = item_of(task, data.items[i], index[i], judge(data.items[i], std::move(logprobs)));
      log.add(run.items[i]);
    }
    if (progress) progress({task.name, static_cast<double>(end), static_cast<double>(data.items.size()), "items"});
  }
  run.tokens_asked = scorer.tokens_asked();
  run.tokens_run = scorer.tokens_run();
  return run;
}

}  // namespace awq
