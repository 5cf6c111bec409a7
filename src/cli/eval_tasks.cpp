#include "cli/eval_tasks.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/log.h"
#include "base/printable.h"
#include "base/system.h"
#include "base/version.h"
#include "checkpoint/chat_source.h"
#include "checkpoint/hub_cache.h"
#include "checkpoint/manifest.h"
#include "checkpoint/tokenizer_source.h"
#include "eval/answer_task.h"
#include "eval/mtbench.h"
#include "cli/http_client.h"
#include "eval/task_run.h"
#include "model/load_words.h"
#include "runtime/end_ids.h"
#include "text/text_source.h"

namespace awq::cli {
namespace {

using nlohmann::ordered_json;

constexpr const char* kMtBench = "mtbench";
constexpr int64_t kMmluShots = 5;  // Hendrycks et al. 2021

// A checkpoint with what a task needs of it.
struct Subject {
  std::shared_ptr<const Checkpoint> checkpoint;
  std::shared_ptr<const Tokenizer> tokenizer;
  std::shared_ptr<const Model> model;
};

Subject open_subject(const std::string& name) {
  Subject s;
  s.checkpoint = Checkpoint::open(resolve_model(name));
  s.tokenizer = load_tokenizer(*s.checkpoint);
  return s;
}

void load(Subject& s, const EvalOptions& o, Precision precision, const Context& context) {
  LoadOptions options{precision, context.report};
  options.head_bits = o.head_bits;
  options.invariant = o.invariant;
  options.device = model_device(context);
  s.model = Model::load(*s.checkpoint, options);
}

// A task with its questions read: everything but the model.
struct PreparedTask {
  std::vector<std::string> metrics;
  int version = 0;
  int64_t shots = 0;
  std::map<std::string, int64_t> available;
  std::string data_name;
  ordered_json questions;  // what decides what is asked: answers belong to nothing else
  std::function<TaskRun(const Subject& subject, TaskLog& log, const ProgressFn& progress)> run;
};

int64_t shots_of(const EvalOptions& o) {
  if (o.fewshot.empty()) return 0;
  if (o.shots >= 0) return o.shots;
  return o.task == "mmlu" ? kMmluShots : static_cast<int64_t>(read_task_file(o.fewshot).lines.size());
}

bool is_samples_file(const std::string& name) { return name.ends_with(".jsonl"); }

ordered_json questions_json(const EvalOptions& o, const std::string& sha256, const std::string& fewshot_sha256, int64_t shots) {
  return {{"task", o.task}, {"data_sha256", sha256}, {"fewshot_sha256", fewshot_sha256}, {"num_fewshot", shots}};
}

PreparedTask prepare_choice(const EvalOptions& o, const ChoiceTask& task) {
  const auto data = std::make_shared<const ChoiceData>(read_choice_data(task, o.data, o.fewshot, shots_of(o), o.limit));
  PreparedTask p{choice_metrics(task), task.version, data->shots, data->available, data->name, {}, {}};
  p.questions = questions_json(o, data->sha256, data->fewshot_sha256, data->shots);
  p.run = [task, data](const Subject& s, TaskLog& log, const ProgressFn& progress) {
    return run_choice_task(*s.model, *s.tokenizer, task, *data, log, progress);
  };
  return p;
}

PreparedTask prepare_answers(const EvalOptions& o, const AnswerTask& task) {
  const bool programs = o.task == humaneval_task().name;
  const auto sandbox = programs ? std::make_shared<const Sandbox>() : nullptr;
  const auto data = std::make_shared<const AnswerData>(programs ? read_humaneval(o.data, o.limit) : read_gsm8k(o.data, o.fewshot, shots_of(o), o.limit));
  const Drawing drawing{o.answers, o.temperature, 0.95F, o.seed};
  PreparedTask p{answer_metrics(task, drawing), task.version, data->shots, {{"", data->available}}, data->name, {}, {}};
  p.questions = questions_json(o, data->sha256, data->fewshot_sha256, data->shots);
  if (o.answers > 1) p.questions.update({{"answers", o.answers}, {"temperature", o.temperature}, {"seed", o.seed}});
  p.run = [&task, data, drawing, sandbox](const Subject& s, TaskLog& log, const ProgressFn& progress) {
    return run_answer_task({s.model, s.tokenizer, end_ids(*s.checkpoint)}, task, *data, drawing, sandbox.get(), log, progress);
  };
  return p;
}

// One chat completion of an OpenAI-compatible server. The key comes from AWQ_JUDGE_API_KEY, not from the command line, which
// every user of the machine can read.
JudgeFn judge_of(const EvalOptions& o) {
  JsonRequest post;
  post.url = o.judge;
  while (post.url.ends_with('/')) post.url.pop_back();
  post.url += "/chat/completions";
  if (const char* key = std::getenv("AWQ_JUDGE_API_KEY"); key != nullptr) post.key = key;
  return [post, model = o.judge_model](const std::string& system, const std::string& question) {
    const ordered_json request = {{"model", model},
                                  {"temperature", 0},
                                  {"messages", {{{"role", "system"}, {"content", system}}, {{"role", "user"}, {"content", question}}}}};
    const std::string body = post_json(post, request.dump(-1, ' ', false, ordered_json::error_handler_t::replace));
    const ordered_json answer = ordered_json::parse(body, nullptr, false);
    const ordered_json::json_pointer content("/choices/0/message/content");
    if (answer.is_discarded() || !answer.contains(content) || !answer.at(content).is_string())
      fail(Code::kBadFile, "{}: expected choices[0].message.content, got {}", post.url, printable(body, 200));
    return answer.at(content).get<std::string>();
  };
}

PreparedTask prepare_mtbench(const EvalOptions& o) {
  const auto data = std::make_shared<const MtBenchData>(read_mtbench(o.data, o.limit));
  PreparedTask p{mtbench_metrics(), 1, 0, {{"", data->available}}, data->name, {}, {}};
  p.questions = questions_json(o, data->sha256, "", 0);
  p.questions.update({{"judge_model", o.judge_model}, {"max_tokens", o.max_tokens}, {"seed", o.seed}});
  p.run = [data, judge = judge_of(o), o](const Subject& s, TaskLog& log, const ProgressFn& progress) {
    const ChatRenderer chat(chat_source(*s.checkpoint));
    return run_mtbench({s.model, s.tokenizer, end_ids(*s.checkpoint)}, chat, *data, o.max_tokens, o.seed, judge, log, progress);
  };
  return p;
}

PreparedTask prepare(const EvalOptions& o) {
  if (o.task == kMtBench) return prepare_mtbench(o);
  if (const ChoiceTask* choice = find_choice_task(o.task)) return prepare_choice(o, *choice);
  return prepare_answers(o, o.task == humaneval_task().name ? humaneval_task() : gsm8k_task());
}

// The reference's answers: of an earlier run's file, or asked for now.
std::vector<TaskItem> reference_items(const EvalOptions& o, const PreparedTask& task, const Context& context) {
  if (is_samples_file(o.reference)) {
    LoggedTask logged = read_task_log(o.reference);
    for (const auto& [key, value] : task.questions.items())
      if (logged.identity.value(key, ordered_json()) != value)
        fail(Code::kBadArgument, "--reference {}: expected {} {}, got {}", o.reference, key, value.dump(),
             logged.identity.value(key, ordered_json()).dump());
    return std::move(logged.items);
  }
  Subject reference = open_subject(o.reference);
  load(reference, o, Precision::kExact, context);
  TaskLog log;
  return task.run(reference, log, context.report).items;
}

void print_scores(const ordered_json& results) {
  for (const auto& [name, entry] : results.items()) {
    std::string line = fmt::format("{:<42}", entry.at("alias").get<std::string>());
    for (const auto& [key, value] : entry.items()) {
      const size_t comma = key.find(',');
      if (comma == std::string::npos || key.find("_stderr") != std::string::npos) continue;
      const std::string metric = key.substr(0, comma), filter = key.substr(comma + 1);
      const ordered_json& error = entry.at(metric + "_stderr," + filter);
      line += fmt::format("  {}{} {:.4f}{}", metric, filter == "none" ? "" : " (" + filter + ")", value.get<double>(),
                          error.is_number() ? fmt::format(" ±{:.4f}", error.get<double>()) : "");
    }
    print_line(line);
  }
}

void print_paired(const std::map<std::string, PairedScore>& paired, const std::string& reference) {
  for (const auto& [metric, p] : paired)
    print_line(fmt::format("against {}: {} {:+.4f} ±{:.4f} (95 %), right only here {}, only there {}{}{}", reference,
                           metric.substr(0, metric.find(',')), p.difference, p.ci95, p.only_model, p.only_reference,
                           std::isnan(p.p) ? "" : fmt::format(", McNemar p {:.3g}", p.p), p.tie ? ": a tie" : ""));
}

int report_task(const Context& context, const EvalOptions& o, const TaskReport& report, const ordered_json& extra,
                const std::vector<TaskItem>* reference, double seconds) {
  ordered_json json = harness_json(report);
  if (context.json) {
    ordered_json out = {{"schema", "awq.eval-task/1"}};
    out.update(json);
    ordered_json config = {{"model", o.model}, {"precision", o.precision}, {"limit", o.limit > 0 ? ordered_json(o.limit) : ordered_json(nullptr)},
                           {"awq_version", kVersion}};
    config.update(extra);
    out["config"] = std::move(config);
    if (reference != nullptr) {
      out["reference"] = o.reference;
      out["paired"] = paired_json(report, *reference);
    }
    out["seconds"] = seconds;
    print_json(out);
  } else {
    print_scores(json.at("results"));
    if (reference != nullptr) print_paired(paired_scores(report, *reference), o.reference);
    print_line(fmt::format("{} items, {}-shot, {}; ± is one standard error", report.items.size(), report.shots, human_seconds(seconds)));
  }
  return 0;
}

}  // namespace

std::vector<std::string> task_names() {
  std::vector<std::string> names;
  for (const ChoiceTask& task : choice_tasks()) names.emplace_back(task.name);
  names.emplace_back(gsm8k_task().name);
  names.emplace_back(humaneval_task().name);
  names.emplace_back(kMtBench);
  return names;
}

int run_task(const Context& context, const EvalOptions& o) {
  const double start = now_seconds();
  const PreparedTask task = prepare(o);
  Subject subject = open_subject(o.model);
  TaskLog log;
  if (!o.samples.empty()) {
    ordered_json identity = task.questions;
    identity.update({{"model_sha256", subject.checkpoint->fingerprint()}, {"precision", o.precision}, {"head_bits", o.head_bits}});
    if (o.invariant) identity["invariant"] = true;
    log = TaskLog(o.samples, identity);
  }
  if (log.restored() > 0) awq::log(Level::kInfo, "{}: {} items are done already", o.samples, log.restored());
  load(subject, o, precision_named(o.precision), context);
  const TaskRun run = task.run(subject, log, context.report);
  const TaskReport report{o.task, task.metrics, task.version, task.shots, run.items, task.available};
  std::vector<TaskItem> reference;
  if (!o.reference.empty()) {
    subject.model.reset();
    reference = reference_items(o, task, context);
  }
  ordered_json extra = {{"data", task.data_name}};
  extra.update(task.questions);
  extra.update({{"tokens_asked", run.tokens_asked}, {"tokens_run", run.tokens_run}});
  return report_task(context, o, report, extra, o.reference.empty() ? nullptr : &reference, now_seconds() - start);
}

}  // namespace awq::cli
