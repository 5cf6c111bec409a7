// Multiple-choice tasks with the prompts and the scoring of lm-evaluation-harness (version 0.4.13, tasks mmlu, arc_easy,
// arc_challenge, hellaswag, winogrande, piqa, openbookqa): the choice whose text is likeliest after the prompt, as it stands
// (acc) and per character (acc_norm).
#pragma once
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "eval/likelihood.h"
#include "eval/task_text.h"
#include "tokenizer/tokenizer.h"

namespace awq {

// The text in front of choice i is contexts[i], or contexts[0] for all; continuations[i] is scored after it.
struct ChoiceItem {
  std::string subject;  // MMLU: "abstract_algebra"; else empty
  std::vector<std::string> contexts, continuations;
  std::vector<int64_t> lengths;  // characters of each choice, by which acc_norm divides
  int64_t gold = 0;
};

struct ChoiceTask {
  const char* name;
  bool normalised;  // acc_norm is reported
  bool by_subject;
  int version;  // of the harness's definition
};
std::vector<ChoiceTask> choice_tasks();
const ChoiceTask* find_choice_task(std::string_view name);  // nullptr: none of that name

struct ChoiceData {
  std::vector<ChoiceItem> items;  // in the order of the file; MMLU: subject by subject, in the order they first appear
  std::string name, sha256;       // of the file
  std::string fewshot_sha256;     // empty: none
  int64_t shots = 0;
  std::map<std::string, int64_t> available;  // items of each subject in the file
};

// `limit`: only so many items, of each subject where there are subjects; 0: all. `fewshot`: a file of the same form whose first
// `shots` items (of the same subject) stand solved in front of each question; empty: none. kNotFound, kBadFile;
// kBadArgument: fewer than `shots` examples.
ChoiceData read_choice_data(const ChoiceTask& task, const std::string& path, const std::string& fewshot, int64_t shots, int64_t limit);

// What the model is asked about one item, in the order of its choices.
std::vector<LikelihoodRequest> choice_requests(const ChoiceItem& item, const Tokenizer& tokenizer);

struct ChoiceOutcome {
  std::vector<double> logprobs;  // of each choice
  int64_t chosen = 0, chosen_norm = 0;  // the first of the largest
  bool right = false, right_norm = false;
};
ChoiceOutcome judge(const ChoiceItem& item, std::vector<double> logprobs);

// MMLU's subjects fall into stem, humanities, social_sciences and other; "" for an unknown one.
std::string mmlu_category(std::string_view subject);

}  // namespace awq
