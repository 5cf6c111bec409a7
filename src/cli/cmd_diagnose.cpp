// awq diagnose: which parts of a model suffer from quantization, on which inputs, and what the cheapest cure is.
#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "base/system.h"
#include "base/thread_pool.h"
#include "checkpoint/hub_cache.h"
#include "checkpoint/manifest.h"
#include "checkpoint/tokenizer_source.h"
#include "cli/commands.h"
#include "cli/diagnose_view.h"
#include "cli/options.h"
#include "cli/text_layout.h"
#include "model/load_words.h"
#include "quant/request.h"
#include "text/text_source.h"

namespace awq::cli {
namespace {

constexpr int64_t kSequence = 512;  // tokens of a measured sequence
constexpr size_t kTableRows = 16;

struct Options : QuantizeRequest {
  const CLI::Option* samples_option = nullptr;
  std::string quantized, data = "builtin", exact = "auto", size, precision = "bf16", html, csv;
  std::vector<int> plan_bits = {3, 4, 8, 16}, plan_groups;
  int64_t limit = 4;
  double kl = 0;
};

constexpr int64_t kExactUnits = 24;

// "3.75bpw": bits per weight of the linears; "+6%": over the uniform checkpoint.
PlanGoal goal_of(const Options& o) {
  PlanGoal goal;
  if (o.kl > 0) {
    goal.kl = o.kl;
    return goal;
  }
  char* end = nullptr;
  const double value = std::strtod(o.size.c_str(), &end);
  const std::string unit = end;
  if (end == o.size.c_str() || !std::isfinite(value) || (unit != "bpw" && unit != "%") || (unit == "bpw" && value <= 0))
    fail(Code::kBadArgument, "--size {}: expected bits per weight of the linears, as 3.75bpw, or more than the uniform checkpoint, as +6%", o.size);
  if (unit == "bpw")
    goal.bits_per_weight = value;
  else
    goal.more_bytes = value / 100;
  return goal;
}

// Those of 32, 64 and 128 that divide the inputs of some linear, unless they are given.
std::vector<int> groups_of(const Options& o, const QuantizePlan& plan) {
  if (!o.plan_groups.empty()) return o.plan_groups;
  std::vector<int> out;
  for (const int g : {32, 64, 128})
    for (const PlannedLinear& l : plan.blocks.front())
      if (l.spec.in % g == 0 && (out.empty() || out.back() != g)) out.push_back(g);
  return out;
}

void check_memory(const QuantizePlan& plan, const TokenSequences& measured) {
  const int64_t needed = diagnosis_bytes(plan, measured);
  if (needed > available_ram_bytes())
    fail(Code::kNoMemory, "diagnosing holds both models at once and needs about {} of memory, {} are available: a smaller --limit needs less",
         human_bytes(static_cast<double>(needed)), human_bytes(static_cast<double>(available_ram_bytes())));
}

TokenSequences measured_tokens(const Options& o, const Tokenizer& tokenizer, std::string& name) {
  const TextSet text = load_text(o.data, Builtin::kHeldout);
  name = o.data == "builtin" ? "built-in held-out text" : text.name;
  TokenSequences out = cut_sequences(token_stream(text, tokenizer), kSequence, o.limit);
  if (out.tokens() < 2) fail(Code::kBadArgument, "--data {}: expected at least 2 tokens, got {}", o.data, out.tokens());
  return out;
}

std::string command_of(const Options& o) {
  std::vector<std::string> argv = {"awq", "diagnose", o.model};
  if (!o.quantized.empty()) argv.insert(argv.end(), {"--quantized", o.quantized});
  if (o.quantized.empty()) argv.insert(argv.end(), {"--method", o.quantize.method, "--quality", o.quantize.quality});
  if (o.quantize.bits != 0) argv.insert(argv.end(), {"--bits", std::to_string(o.quantize.bits)});
  if (o.group != "auto") argv.insert(argv.end(), {"--group-size", o.group});
  argv.insert(argv.end(), {"--calib", o.calib, "--samples", o.samples, "--seq-len", std::to_string(o.seq_len), "--data", o.data, "--limit",
                           std::to_string(o.limit), "--exact", o.exact});
  if (o.quantize.symmetric) argv.emplace_back("--sym");
  if (o.precision != "bf16") argv.insert(argv.end(), {"--precision", o.precision});
  if (!o.output.empty()) argv.insert(argv.end(), {"-o", o.output, "--plan-bits", fmt::format("{}", fmt::join(o.plan_bits, ","))});
  if (!o.output.empty() && !o.plan_groups.empty()) argv.insert(argv.end(), {"--plan-groups", fmt::format("{}", fmt::join(o.plan_groups, ","))});
  if (!o.size.empty()) argv.insert(argv.end(), {"--size", o.size});
  if (o.kl > 0) argv.insert(argv.end(), {"--kl", fmt::format("{:g}", o.kl)});
  return public_command(argv);
}

void write_plan(const Options& o, const ModelPlan& plan, const DiagnoseFacts& facts) {
  nlohmann::ordered_json json = mixed_plan_json(plan.plan);
  json["expected"] = {{"kl", plan.expected_kl},
                      {"kl_uniform", plan.uniform_kl},
                      {"weight_bytes", plan.bytes},
                      {"weight_bytes_uniform", plan.uniform_bytes},
                      {"bits_per_weight", plan.bits_per_weight}};
  json["command"] = facts.command;
  write_file_atomic(o.output, json.dump(1) + "\n");
}

void print_plan(const ModelPlan& plan, const std::string& path) {
  std::string schemes;
  int64_t weights = 0;
  for (const auto& [name, count] : plan.schemes) weights += count;
  for (const auto& [name, count] : plan.schemes)
    schemes += fmt::format("{}{:.1f} % {}", schemes.empty() ? "" : ", ", 100.0 * static_cast<double>(count) / static_cast<double>(weights), name);
  print_line(fmt::format("plan   {}: {} ({:+.1f} % against uniform), {:.2f} bits per weight of the linears, KL about {:.4f} instead of {:.4f}\n       {}", path,
                         human_bytes(static_cast<double>(plan.bytes)),
                         100 * (static_cast<double>(plan.bytes) / static_cast<double>(plan.uniform_bytes) - 1), plan.bits_per_weight, plan.expected_kl,
                         plan.uniform_kl, schemes));
  print_line(fmt::format("next   awq quantize MODEL --plan {}", path));
}

void print_diagnosis(const Diagnosis& d, const DiagnoseFacts& facts) {
  print_line(fmt::format("all    {}: KL {:.4f} ±{:.4f}, same next token {:.1f} %, perplexity {:.2f} → {:.2f}, on {} tokens of {}", d.scheme_text, d.total.kl,
                         d.total.kl_ci95, 100 * d.total.top1_agreement, d.total.perplexity_source, d.total.perplexity, d.total.tokens, facts.text));
  print_line("\nWhat costs most, when it alone is quantized (≈: estimated)");
  print_line(text_table(units_table(d, kTableRows)));
  print_line("\nLargest errors");
  print_line(text_table(linears_table(d, kTableRows / 2)) + "\n");
}

int run(const Context& context, Options o) {
  check_runs_on_cpu(context, "diagnose");
  const double start = now_seconds();
  o.resolve_group();
  if (!o.quantized.empty() && o.samples_option->count() == 0) o.samples = "32";
  const bool plans = !o.output.empty();
  if (plans != (!o.size.empty() || o.kl > 0)) fail(Code::kBadArgument, "a plan needs a file and a goal: expected -o FILE with --size or --kl");
  PlanGoal goal;
  if (plans) goal = goal_of(o);
  if (plans && !o.quantized.empty()) fail(Code::kBadArgument, "-o {}: a plan is made from the source alone: leave out --quantized", o.output);
  const auto checkpoint = Checkpoint::open(resolve_model(o.model));
  const auto quantized = o.quantized.empty() ? nullptr : Checkpoint::open(resolve_model(o.quantized));
  DiagnoseOptions options;
  options.quantize = o.quantize;
  options.exact = o.exact == "auto" ? kExactUnits : o.exact == "all" ? INT64_MAX : std::stoll(o.exact);
  options.precision = precision_named(o.precision);
  const QuantizePlan uniform = plan_quantize(*checkpoint, o.quantize, 0);  // what is wrong is said before text is read
  if (plans) options.candidates = plan_schemes(o.plan_bits, groups_of(o, uniform));
  const auto tokenizer = load_tokenizer(*checkpoint);

  DiagnoseFacts facts;
  const TextSet calibration = load_text(o.calib);
  SampleChoice choice = calibration_sequences(*checkpoint, o, o.quantize, token_stream(calibration, *tokenizer), context.report);
  DiagnoseInputs inputs{std::move(choice.sequences), measured_tokens(o, *tokenizer, facts.text), Precision::kBf16};
  if (inputs.calibration.tokens() == 0) fail(Code::kBadArgument, "--calib {}: expected text, got none", o.calib);
  check_memory(uniform, inputs.measured);
  const Diagnosis d = diagnose(*checkpoint, quantized.get(), inputs, options, context.report);

  facts.model = public_name(checkpoint->path());
  if (quantized) facts.quantized = public_name(quantized->path());
  facts.calibration = calibration.name;
  facts.calibration_tokens = inputs.calibration.tokens();
  facts.samples = choice;
  facts.seq_len = o.seq_len;
  facts.command = command_of(o);
  facts.machine = fmt::format("{} threads, {}", threads(), isa_name(isa()));
  facts.tokenizer = tokenizer;
  facts.measured = &inputs.measured;
  facts.seconds = now_seconds() - start;
  std::optional<ModelPlan> plan;
  if (plans) {
    const bool dense = std::find(o.plan_bits.begin(), o.plan_bits.end(), kDenseBits) != o.plan_bits.end();
    plan = plan_model(*checkpoint, d, options.candidates, dense, goal);
    plan->plan.model = facts.model;
    write_plan(o, *plan, facts);
  }
  if (!o.html.empty()) write_file_atomic(o.html, diagnose_page(d, facts, plan));
  if (!o.csv.empty()) write_csv(o.csv, d, facts);
  if (context.json) {
    print_json(diagnose_json(d, facts, plan));
    return 0;
  }
  if (choice.automatic) print_line("calib  " + samples_text(choice, o.seq_len));
  print_diagnosis(d, facts);
  if (plan) print_plan(*plan, o.output);
  if (!o.html.empty()) print_line("wrote  " + o.html);
  if (!o.csv.empty()) print_line("wrote  " + o.csv + "/*.csv");
  print_line(fmt::format("took   {} ({} to quantize, {} to measure), peak {}", human_seconds(facts.seconds), human_seconds(d.seconds_quantize),
                         human_seconds(d.seconds_measure), human_bytes(static_cast<double>(peak_rss_bytes()))));
  return 0;
}

std::string whole_number_auto_or_all(const std::string& value) { return value == "all" ? std::string{} : whole_number_or_auto(value); }

}  // namespace

void add_diagnose(CLI::App& app, Context& context) {
  auto o = std::make_shared<Options>();
  auto& command = add_command(app, context,
                              {"diagnose", "Find what suffers from quantization; plan bits",
                               "awq diagnose ./model --html report.html\n"
                               "awq diagnose ./model -o plan.json --size +6%"},
                              [&context, o] { return run(context, *o); });
  command.add_option("model", o->model, "the source: Hugging Face directory, .gguf file, or org/name in the cache")->required()->type_name("MODEL");
  command.add_option("--quantized", o->quantized, "diagnose this checkpoint, made from MODEL")->type_name("DIR");
  const char* plan = "Plan";
  command.add_option("-o,--output", o->output, "write a plan for awq quantize --plan")->type_name("FILE")->group(plan);
  auto* size = command.add_option("--size", o->size, "3.75bpw of the linears, or +6% over the uniform checkpoint")->type_name("SIZE")->group(plan);
  command.add_option("--kl", o->kl, "the smallest size expected to stay below this KL")
      ->check(CLI::Range(1e-9, 100.0))
      ->excludes(size)
      ->type_name("X")
      ->group(plan);
  command.add_option("--plan-bits", o->plan_bits, "bits it may give (default 3,4,8,16)")
      ->delimiter(',')
      ->check(CLI::IsMember(std::vector<int>{2, 3, 4, 5, 6, 7, 8, 16}))
      ->type_name("LIST")
      ->group(plan);
  command.add_option("--plan-groups", o->plan_groups, "groups it may give (default 32,64,128)")
      ->delimiter(',')
      ->check(CLI::Range(8, 4096))
      ->type_name("LIST")
      ->group(plan);
  const char* how = "How MODEL is quantized";
  command.add_option("--method", o->quantize.method, "awq (default)|autoawq|gptq|rtn|nf4|smoothquant|llm-int8")
      ->check(one_of({"awq", "autoawq", "gptq", "rtn", "nf4", "smoothquant", "llm-int8"}))
      ->type_name("NAME")
      ->group(how);
  command.add_option("--quality", o->quantize.quality, "fast|best (default)")->check(one_of({"fast", "best"}))->type_name("NAME")->group(how);
  command.add_option("--bits", o->quantize.bits, "bits per weight, 2 to 8 (default 4)")->check(CLI::Range(2, 8))->type_name("N")->group(how);
  command.add_option("--group-size", o->group, "weights sharing a scale: auto, a number, or -1 for all of a row")
      ->check([](const std::string& v) { return v == "-1" ? std::string{} : whole_number_or_auto(v); })
      ->type_name("N")
      ->group(how);
  command.add_flag("--sym", o->quantize.symmetric, "symmetric: no zero points")->group(how);
  command.add_option("--calib", o->calib, "builtin, a .txt or .jsonl ({\"text\": ...}) file, or - for stdin")->type_name("TEXT");
  o->samples_option = command.add_option("--samples", o->samples, "calibration sequences (default 128; 32 with --quantized), or auto: as many as change anything")->check(whole_number_or_auto)->type_name("N");
  command.add_option("--seq-len", o->seq_len, "tokens per calibration sequence (default 512)")->check(CLI::Range(8, 32768))->type_name("N");
  command.add_option("--data", o->data, "text to measure on: builtin or a file (default builtin)")->type_name("TEXT");
  command.add_option("--limit", o->limit, "sequences of 512 tokens to measure on (default 4)")->check(CLI::Range(1, 1 << 20))->type_name("N");
  command.add_option("--exact", o->exact, "parts measured one by one: auto (24), a number, or all")->check(whole_number_auto_or_all)->type_name("N");
  command.add_option("--precision", o->precision, "bf16 (default)|exact: of the measured runs")->check(one_of({"exact", "bf16"}))->type_name("NAME");
  command.add_option("--html", o->html, "write a page that opens offline")->type_name("FILE");
  command.add_option("--csv", o->csv, "write the numbers behind it")->type_name("DIR");
}

}  // namespace awq::cli
