// awq eval: perplexity of a model, or how far its predictions are from a reference model's, on a text; or its score on a task.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "base/system.h"
#include "cli/commands.h"
#include "cli/eval_tasks.h"
#include "cli/eval_text.h"
#include "cli/options.h"
#include "eval/perplexity.h"
#include "runtime/request.h"
#include "text/protocol.h"

namespace awq::cli {
namespace {

using Options = EvalOptions;

// Standard error of a mean whose 95 % interval has this half width.
double standard_error(double ci95) { return ci95 / 1.96; }

nlohmann::ordered_json to_json(const Options& o, const TextSet& text, const Evaluation& e, int64_t tokens,
                               double seconds) {
  nlohmann::ordered_json json = {{"schema", "awq.eval/1"},
                                 {"task", o.task},
                                 {"model", o.model},
                                 {"data", o.data},
                                 {"data_sha256", text.sha256},
                                 {"protocol", o.protocol},
                                 {"precision", o.precision},
                                 {"tokens", tokens},
                                 {"windows", e.windows},
                                 {"targets", e.targets},
                                 {"nll", e.nll},
                                 {"perplexity", e.perplexity},
                                 {"perplexity_ci95", e.perplexity_ci95}};
  if (e.divergence) {
    const Divergence& d = *e.divergence;
    json["reference"] = o.reference;
    json["reference_perplexity"] = d.reference_perplexity;
    json["kl"] = d.kl;
    json["kl_ci95"] = d.kl_ci95;
    json["kl_median"] = d.kl_median;
    json["kl_p99"] = d.kl_p99;
    json["kl_max"] = d.kl_max;
    json["top1_agreement"] = d.top1_agreement;
    json["top1_agreement_ci95"] = d.top1_agreement_ci95;
  }
  json["stderr"] = standard_error(e.divergence ? e.divergence->kl_ci95 : e.perplexity_ci95);
  json["seconds"] = seconds;
  return json;
}

// 302956 -> "302,956"
std::string grouped(int64_t number) {
  std::string digits = std::to_string(number);
  for (auto at = static_cast<int64_t>(digits.size()) - 3; at > 0; at -= 3)
    digits.insert(static_cast<size_t>(at), ",");
  return digits;
}

void print_text(const Options& o, const TextSet& text, const Evaluation& e, double seconds) {
  if (e.divergence) {
    const Divergence& d = *e.divergence;
    print_line(
        fmt::format("KL          {:.4f} ±{:.4f}   median {:.4f}, 99 % below {:.3f}, largest {:.2f} nats",
                    d.kl, d.kl_ci95, d.kl_median, d.kl_p99, d.kl_max));
    print_line(
        fmt::format("same token  {:.2f} % ±{:.2f}", 100 * d.top1_agreement, 100 * d.top1_agreement_ci95));
    print_line(fmt::format("perplexity  {:.3f} → {:.3f} ({:+.2f} %)", d.reference_perplexity, e.perplexity,
                           100 * (e.perplexity / d.reference_perplexity - 1)));
  } else {
    print_line(fmt::format("perplexity  {:.3f} ±{:.3f}", e.perplexity, e.perplexity_ci95));
  }
  print_line(fmt::format("measured    on {} ({}): {} predictions in {} windows, {}",
                         o.data == "builtin" ? "the built-in held-out text" : text.name, o.protocol,
                         grouped(e.targets), e.windows, human_seconds(seconds)));
}

int run_text(const Context& context, const Options& o) {
  const TextRun run = measure_text(context, o);
  if (context.json)
    print_json(to_json(o, run.text, run.evaluation, run.used_tokens, run.seconds));
  else
    print_text(o, run.text, run.evaluation, run.seconds);
  return 0;
}

bool is_text_task(const std::string& task) { return task == "ppl" || task == "kl"; }

// What the parser cannot say: which options belong together.
void check_options(const CLI::App& command, const Options& o) {
  const auto given = [&](const char* name) { return command.count(name) > 0; };
  if (o.task == "kl" && o.reference.empty())
    throw CLI::ValidationError("--task kl", "needs --reference MODEL, the model to compare with");
  if (o.task == "ppl" && !o.reference.empty()) throw CLI::ValidationError("--reference", "is for --task kl and for tasks with answers");
  for (const char* name : {"--fewshot", "--num-fewshot", "--samples"})
    if (is_text_task(o.task) && given(name)) throw CLI::ValidationError(name, "is for tasks with answers, not for --task " + o.task);
  if (is_text_task(o.task)) return;
  if (!given("--data")) throw CLI::ValidationError("--task " + o.task, "needs --data FILE, its questions as JSON lines (docs/evaluation.md)");
  if (given("--kv-dtype")) throw CLI::ValidationError("--kv-dtype", "is for --task ppl and kl");
  if (given("--protocol")) throw CLI::ValidationError("--protocol", "is for --task ppl and kl");
  for (const char* name : {"--answers", "--temperature"})
    if (given(name) && o.task != "humaneval") throw CLI::ValidationError(name, "is for --task humaneval");
  const bool mtbench = o.task == "mtbench";
  if (given("--seed") && o.task != "humaneval" && !mtbench) throw CLI::ValidationError("--seed", "is for --task humaneval and mtbench");
  for (const char* name : {"--judge", "--judge-model"})
    if (given(name) != mtbench)
      throw CLI::ValidationError(mtbench ? "--task mtbench" : name, mtbench ? fmt::format("needs {}: who rates the answers", name) : "is for --task mtbench");
  if (given("--max-tokens") && !mtbench) throw CLI::ValidationError("--max-tokens", "is for --task mtbench");
  if (mtbench && given("--fewshot")) throw CLI::ValidationError("--fewshot", "is not for --task mtbench");
  if (o.task == "humaneval" && given("--fewshot")) throw CLI::ValidationError("--fewshot", "is not for --task humaneval");
  if (given("--num-fewshot") && o.shots > 0 && o.fewshot.empty())
    throw CLI::ValidationError("--num-fewshot", "needs --fewshot FILE, the solved examples");
}

}  // namespace

void add_eval(CLI::App& app, Context& context) {
  auto o = std::make_shared<Options>();
  auto& command = add_command(app, context,
                              {"eval", "Measure perplexity, KL to a reference model, or tasks",
                               "awq eval ./model-awq --task kl --reference ./model\n"
                               "awq eval ./model --task mmlu --data mmlu.jsonl --fewshot dev.jsonl"},
                              [&context, o] { return is_text_task(o->task) ? run_text(context, *o) : run_task(context, *o); });
  command.add_option("model", o->model, "Hugging Face directory, .gguf file, or org/name in the cache")
      ->required()
      ->type_name("MODEL");
  std::vector<std::string> tasks = task_names();
  tasks.insert(tasks.begin(), {"ppl", "kl"});
  command.add_option("--task", o->task, "ppl|kl (distance to --reference) on a text, or " + fmt::format("{}", fmt::join(task_names(), ", ")))
      ->required()
      ->check(one_of(tasks))
      ->type_name("TASK");
  command.add_option("--reference", o->reference, "the model to compare with; for tasks also its --samples file (.jsonl)")
      ->type_name("MODEL");
  command
      .add_option("--data", o->data,
                  "builtin (held-out text), a text file, a .jsonl ({\"text\": ...}) file, or - for stdin; of a task its questions, "
                  "one JSON object a line")
      ->type_name("TEXT");
  const auto names = protocol_names();
  command.add_option("--protocol", o->protocol, "raw2048|gptq2048|llamacpp512: how text becomes windows")
      ->check(one_of({names.begin(), names.end()}))
      ->type_name("NAME");
  command.add_option("--limit", o->limit, "use only the first N windows, or questions (of each MMLU subject)")
      ->check(CLI::Range(1, 1 << 30))
      ->type_name("N");
  add_precision_options(command, o->precision, o->head_bits);
  add_invariant_option(command, o->invariant);
  add_kv_dtype_option(command, o->kv_dtype);
  command.add_option("--fewshot", o->fewshot, "solved examples to put in front of each question, in the form of --data")->type_name("FILE");
  command.add_option("--num-fewshot", o->shots, "so many of them; else 5 for MMLU and the whole file for other tasks")
      ->check(CLI::Range(0, 1000))
      ->type_name("N");
  command.add_option("--samples", o->samples, "write each answer there as it comes; the same command goes on where it was stopped")
      ->type_name("FILE");
  command.add_option("--answers", o->answers, "of humaneval: so many to each problem, drawn at --temperature; else the likeliest one")
      ->check(CLI::Range(1, static_cast<int>(kMaxChoices)))
      ->type_name("N");
  command.add_option("--temperature", o->temperature, "of several --answers")->check(CLI::Range(0.01, 2.0))->capture_default_str()->type_name("X");
  command.add_option("--seed", o->seed, "of several --answers, and of mtbench")->type_name("N");
  command.add_option("--judge", o->judge, "of mtbench: an OpenAI-compatible server, as http://localhost:8000/v1; its key from AWQ_JUDGE_API_KEY")
      ->type_name("URL");
  command.add_option("--judge-model", o->judge_model, "of mtbench: the model that rates")->type_name("NAME");
  command.add_option("--max-tokens", o->max_tokens, "of mtbench: longest answer")->check(CLI::Range(1, 1 << 20))->capture_default_str()->type_name("N");
  command.parse_complete_callback([o, &command] { check_options(command, *o); });
}

}  // namespace awq::cli
