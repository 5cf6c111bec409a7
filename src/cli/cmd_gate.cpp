// awq gate: a bound on how far a model may be from its reference, as an exit status for continuous integration.
#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/system.h"
#include "cli/commands.h"
#include "cli/eval_text.h"
#include "text/protocol.h"

namespace awq::cli {
namespace {

constexpr int kFailed = 3;  // 1 is an error, 2 a wrong command line

struct Options {
  EvalOptions eval;
  std::optional<double> max_kl;
  std::string max_ppl_rise, min_agreement;  // per cent, with or without the sign
};

struct Bound {
  const char* name;  // of the option
  const char* what;
  const char* unit;
  double measured, ci95, bound;
  bool is_floor;  // measured must not be below; else not above

  bool passes() const { return is_floor ? measured >= bound : measured <= bound; }
  bool clear() const { return std::fabs(measured - bound) > ci95; }  // the 95 % interval does not hold the bound
};

// "1.5" or "1.5%"; empty where it is no number.
std::optional<double> percent(std::string_view text) {
  if (text.ends_with('%')) text.remove_suffix(1);
  double value = 0;
  const auto end = std::from_chars(text.data(), text.data() + text.size(), value);
  if (end.ec != std::errc() || end.ptr != text.data() + text.size() || !std::isfinite(value)) return std::nullopt;
  return value;
}

std::string check_percent(const std::string& text) {
  return percent(text) ? "" : fmt::format("expected per cent such as 1.5 or 1.5%, got '{}'", text);
}

std::vector<Bound> bounds_of(const Options& o, const Evaluation& e) {
  const Divergence& d = *e.divergence;
  std::vector<Bound> out;
  if (o.max_kl) out.push_back({"--max-kl", "KL", "nats", d.kl, d.kl_ci95, *o.max_kl, false});
  const double rise = 100 * (e.perplexity / d.reference_perplexity - 1);
  if (!o.max_ppl_rise.empty()) out.push_back({"--max-ppl-rise", "perplexity rise", "%", rise, 100 * d.perplexity_ratio_ci95, *percent(o.max_ppl_rise), false});
  if (!o.min_agreement.empty())
    out.push_back({"--min-agreement", "same most likely token", "%", 100 * d.top1_agreement, 100 * d.top1_agreement_ci95, *percent(o.min_agreement), true});
  return out;
}

int run(const Context& context, const Options& o) {
  const TextRun measured = measure_text(context, o.eval);
  const std::vector<Bound> bounds = bounds_of(o, measured.evaluation);
  bool passed = true;
  nlohmann::ordered_json checks = nlohmann::ordered_json::array();
  for (const Bound& b : bounds) {
    passed = passed && b.passes();
    checks.push_back({{"bound", b.name}, {"limit", b.bound}, {"measured", b.measured}, {"ci95", b.ci95}, {"unit", b.unit}, {"passed", b.passes()}, {"clear", b.clear()}});
    if (!context.json)
      print_line(fmt::format("{:<6}  {} {:.4g} ±{:.2g} {}, {} {:.4g}{}", b.passes() ? "pass" : "FAIL", b.what, b.measured, b.ci95, b.unit,
                             b.is_floor ? "at least" : "at most", b.bound, b.clear() ? "" : " (within the 95 % interval: --limit or more text decides)"));
  }
  if (context.json)
    print_json({{"schema", "awq.gate/1"}, {"model", o.eval.model}, {"reference", o.eval.reference}, {"data", o.eval.data},
                {"data_sha256", measured.text.sha256}, {"protocol", o.eval.protocol}, {"windows", measured.evaluation.windows},
                {"targets", measured.evaluation.targets}, {"checks", checks}, {"passed", passed}, {"seconds", measured.seconds}});
  else
    print_line(fmt::format("{} targets in {} windows, {}", measured.evaluation.targets, measured.evaluation.windows, human_seconds(measured.seconds)));
  return passed ? 0 : kFailed;
}

}  // namespace

void add_gate(CLI::App& app, Context& context) {
  auto o = std::make_shared<Options>();
  o->eval.task = "kl";
  auto& command = add_command(app, context,
                              {"gate", "Fail (status 3) a model too far from its reference",
                               "awq gate ./model-awq --reference ./model --max-kl 0.05\n"
                               "awq gate ./model-awq --reference ./model --min-agreement 95%"},
                              [&context, o] { return run(context, *o); });
  command.add_option("model", o->eval.model, "Hugging Face directory, .gguf file, or org/name in the cache")->required()->type_name("MODEL");
  command.add_option("--reference", o->eval.reference, "the model it must stay near")->required()->type_name("MODEL");
  command.add_option("--max-kl", o->max_kl, "largest mean KL divergence, nats a token")->check(CLI::NonNegativeNumber)->type_name("X");
  command.add_option("--max-ppl-rise", o->max_ppl_rise, "largest rise of perplexity over the reference's, per cent")->check(check_percent)->type_name("P");
  command.add_option("--min-agreement", o->min_agreement, "least share of tokens with the same most likely one, per cent")
      ->check(check_percent)
      ->type_name("P");
  command.add_option("--data", o->eval.data, "builtin (held-out text), a text file, a .jsonl file, or - for stdin")->type_name("TEXT");
  const auto names = protocol_names();
  command.add_option("--protocol", o->eval.protocol, "raw2048|gptq2048|llamacpp512: how text becomes windows")
      ->check(one_of({names.begin(), names.end()}))
      ->type_name("NAME");
  command.add_option("--limit", o->eval.limit, "use only the first N windows")->check(CLI::Range(1, 1 << 30))->type_name("N");
  add_precision_options(command, o->eval.precision, o->eval.head_bits);
  add_invariant_option(command, o->eval.invariant);
  command.parse_complete_callback([o] {
    if (!o->max_kl && o->max_ppl_rise.empty() && o->min_agreement.empty())
      throw CLI::ValidationError("gate", "needs a bound: --max-kl, --max-ppl-rise or --min-agreement");
  });
}

}  // namespace awq::cli
