// awq compare: every method on one model, from one pass of statistics, in one table.
#include <fmt/core.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "base/system.h"
#include "checkpoint/hub_cache.h"
#include "checkpoint/json_file.h"
#include "checkpoint/manifest.h"
#include "cli/commands.h"
#include "cli/compare_view.h"
#include "cli/options.h"
#include "cli/text_layout.h"
#include "eval/compare_request.h"
#include "text/protocol.h"

namespace awq::cli {
namespace {

struct Options : CompareRequest {
  std::vector<std::string> data = {"builtin"};
  std::string html;
};

std::string command_of(const Options& o) {
  std::vector<std::string> argv = {"awq", "compare", o.model};
  if (o.quantize.bits != 0) argv.insert(argv.end(), {"--bits", std::to_string(o.quantize.bits)});
  if (o.group != "auto") argv.insert(argv.end(), {"--group-size", o.group});
  argv.insert(argv.end(), {"--calib", o.calib, "--samples", o.samples, "--seq-len", std::to_string(o.seq_len),
                           "--protocol", o.protocol});
  if (o.limit > 0) argv.insert(argv.end(), {"--limit", std::to_string(o.limit)});
  for (const std::string& name : o.methods) argv.insert(argv.end(), {"--methods", name});
  for (const std::string& data : o.data) argv.insert(argv.end(), {"--data", data});
  return public_command(argv);
}

int run(const Context& context, const Options& o) {
  check_runs_on_cpu(context, "compare");
  const auto checkpoint = Checkpoint::open(resolve_model(o.model));
  std::vector<TextSet> texts;
  for (const std::string& data : o.data) texts.push_back(load_text(data, Builtin::kHeldout));
  CompareResult result = run_compare(*checkpoint, o, {load_text(o.calib)}, texts, context.report);
  const Comparison& comparison = result.comparison;
  CompareFacts& facts = result.facts;
  facts.command = command_of(o);
  if (!o.html.empty()) write_file_atomic(o.html, compare_page(comparison, facts));
  if (context.json) {
    print_json(compare_json(comparison, facts));
    return 0;
  }
  for (size_t t = 0; t < facts.text_names.size(); ++t) {
    print_line(facts.text_names[t]);
    print_line(text_table(compare_table(comparison, facts, t)) + "\n");
  }
  if (facts.samples.automatic) print_line("calibrated with " + samples_text(facts.samples, facts.seq_len));
  for (size_t t = 0; t < facts.text_names.size(); ++t) print_line(shift_text(comparison, facts, t));
  print_line(fmt::format(
      "* least KL; \u2248 does not differ from it by more than chance   statistics {:.0f} s, all {}, peak {}",
      comparison.all.statistics_seconds, human_seconds(facts.seconds),
      human_bytes(static_cast<double>(peak_rss_bytes()))));
  if (!o.html.empty()) print_line("wrote  " + o.html);
  return 0;
}

}  // namespace

void add_compare(CLI::App& app, Context& context) {
  auto o = std::make_shared<Options>();
  auto& command = add_command(app, context,
                              {"compare", "Compare quantization methods on one model",
                               "awq compare ./model --html report.html\n"
                               "awq compare ./model --methods awq,gptq,rtn:b3 --data my.txt"},
                              [&context, o] { return run(context, *o); });
  command.add_option("model", o->model, "Hugging Face directory, .gguf file, or org/name in the cache")
      ->required()
      ->type_name("MODEL");
  command.add_option("--methods", o->methods, "methods, each METHOD[:fast|best|sym|bN|gN]... (default all)")
      ->delimiter(',')
      ->type_name("LIST");
  command.add_option("--bits", o->quantize.bits, "bits per weight, 2 to 8 (default 4)")
      ->check(CLI::Range(2, 8))
      ->type_name("N");
  command
      .add_option("--group-size", o->group, "weights sharing a scale: auto, a number, or -1 for all of a row")
      ->check([](const std::string& v) { return v == "-1" ? std::string{} : whole_number_or_auto(v); })
      ->type_name("N");
  command.add_option("--calib", o->calib, "builtin, a .txt or .jsonl ({\"text\": ...}) file, or - for stdin")
      ->type_name("TEXT");
  command.add_option("--samples", o->samples, "calibration sequences (default 128), or auto: as many as change anything")
      ->check(whole_number_or_auto)
      ->type_name("N");
  command.add_option("--seq-len", o->seq_len, "tokens per calibration sequence (default 512)")
      ->check(CLI::Range(8, 32768))
      ->type_name("N");
  auto* stats = command.add_option("--stats", o->stats.load, "read the calibration's statistics from a file that --save-stats wrote")
                    ->type_name("FILE");
  command.add_option("--save-stats", o->stats.save, "keep them, for other bits, groups and methods")
      ->excludes(stats)
      ->type_name("FILE");
  command.add_option("--data", o->data, "texts to measure on: builtin or files (default builtin)")
      ->delimiter(',')
      ->type_name("LIST");
  const auto names = protocol_names();
  command.add_option("--protocol", o->protocol, "raw2048|gptq2048|llamacpp512: how text becomes windows")
      ->check(one_of({names.begin(), names.end()}))
      ->type_name("NAME");
  command.add_option("--limit", o->limit, "use only the first N windows of each text")
      ->check(CLI::Range(1, 1 << 30))
      ->type_name("N");
  command.add_flag("--no-prompts", o->no_prompts, "leave out the answers to ten prompts");
  command.add_flag("--no-speed", o->no_speed, "leave out prefill and decode speeds");
  command.add_option("--html", o->html, "write a page that opens offline")->type_name("FILE");
}

}  // namespace awq::cli
