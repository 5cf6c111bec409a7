// awq compare: every method on one model, from one pass of statistics, in one table.
#include <fmt/core.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "base/log.h"
#include "base/system.h"
#include "base/thread_pool.h"
#include "checkpoint/hub_cache.h"
#include "checkpoint/json_file.h"
#include "checkpoint/manifest.h"
#include "checkpoint/tokenizer_source.h"
#include "cli/commands.h"
#include "cli/compare_view.h"
#include "cli/options.h"
#include "cli/text_layout.h"
#include "quant/request.h"

namespace awq::cli {
namespace {

struct Options : QuantizeRequest {
  std::vector<std::string> methods, data = {"builtin"};
  std::string protocol = "raw2048", html;
  int64_t limit = 0;
  bool no_speed = false, no_prompts = false;
  StatsFiles stats;
};

constexpr const char* kDefaultMethods[] = {"awq", "autoawq",     "gptq",     "rtn",
                                           "nf4", "smoothquant", "llm-int8", "salient-fp16"};

// For the side-by-side: facts, lists, code, arithmetic, other languages.
constexpr const char* kPrompts[] = {
    "The capital of France is",
    "Water boils at a lower temperature on a mountain because",
    "Here is a list of five fruits:\n1.",
    "def fibonacci(n):\n    \"\"\"Return the n-th Fibonacci number.\"\"\"\n",
    "If a train travels 60 km in 45 minutes, its speed in km/h is",
    "Once upon a time, in a small village by the sea, there lived",
    "The main difference between a virus and a bacterium is that",
    "Bonjour, je m'appelle",
    "SELECT name, COUNT(*) FROM orders",
    "To make a cup of tea, first",
};

// "gptq", "awq:fast", "rtn:b3", "awq:b3:g32": a method, then quality, bits and group size that differ from
// the command's.
Contender parse_method(const std::string& text, const QuantizeOptions& base) {
  Contender c{text, base, Salient::kNone};
  size_t at = text.find(':');
  std::string name = text.substr(0, at);
  if (name == "salient-fp16" || name == "salient-fp16-weight" || name == "salient-fp16-random") {
    c.salient = name == "salient-fp16"     ? Salient::kByActivation
                : name.ends_with("weight") ? Salient::kByWeight
                                           : Salient::kAtRandom;
    name = "rtn";
  }
  c.options.method = name;
  const Scheme fixed = find_method(name).fixed;
  if (fixed.bits != 0) c.options.bits = 0, c.options.group.reset();
  while (at != std::string::npos) {
    const size_t next = text.find(':', at + 1);
    const std::string part = text.substr(at + 1, next == std::string::npos ? next : next - at - 1);
    at = next;
    const std::string digits = part.size() > 1 ? part.substr(1) : "";
    const bool whole =
        !digits.empty() && digits.size() < 7 && digits.find_first_not_of("0123456789") == std::string::npos;
    if (part == "fast" || part == "best")
      c.options.quality = part;
    else if (part == "sym")
      c.options.symmetric = true;
    else if (part[0] == 'b' && whole)
      c.options.bits = std::stoi(digits);
    else if (part[0] == 'g' && whole)
      c.options.group = std::stoi(digits);
    else
      fail(Code::kBadArgument, "--methods {}: '{}' is not fast, best, sym, bN or gN", text, part);
  }
  return c;
}

std::vector<Contender> contenders_of(const Options& o) {
  std::vector<std::string> names = o.methods;
  if (names.empty()) names.assign(std::begin(kDefaultMethods), std::end(kDefaultMethods));
  std::vector<Contender> out;
  for (const std::string& name : names) {
    out.push_back(parse_method(name, o.quantize));
    for (size_t i = 0; i + 1 < out.size(); ++i)
      if (out[i].label == name) fail(Code::kBadArgument, "--methods: '{}' is named twice", name);
  }
  return out;
}

// All models stand in memory together.
void check_memory(const Checkpoint& checkpoint, const std::vector<Contender>& contenders, int64_t tokens) {
  int64_t models = 0, widest = 0;
  for (const Contender& c : contenders) {
    const QuantizePlan plan = plan_quantize(checkpoint, c.options, tokens);
    models += c.salient == Salient::kNone ? plan.weight_bytes : plan.source_bytes * 2;
    widest = std::max(widest, plan.memory_bytes + plan.source_bytes);
  }
  const int64_t needed = models + widest;
  if (needed > available_ram_bytes())
    fail(Code::kNoMemory,
         "comparing {} methods side by side needs about {} of memory, {} are available: name fewer with "
         "--methods",
         contenders.size(), human_bytes(static_cast<double>(needed)),
         human_bytes(static_cast<double>(available_ram_bytes())));
}

CompareOptions compare_options(const Options& o, const Tokenizer& tokenizer) {
  const Protocol protocol = protocol_named(o.protocol);
  CompareOptions out;
  out.statistics = o.stats;
  out.limit = o.limit;
  out.speed = !o.no_speed;
  for (const std::string& data : o.data) {
    const TextSet text = load_text(data, Builtin::kHeldout);
    MeasuredText measured{data == "builtin" ? "built-in held-out text" : text.name, text.sha256,
                          protocol_tokens(text, tokenizer, protocol), protocol_windows(protocol, tokenizer)};
    if (static_cast<int64_t>(measured.tokens.size()) < measured.spec.length)
      fail(Code::kBadArgument, "--data {}: expected at least {} tokens, one window of {}, got {}", data,
           measured.spec.length, o.protocol, measured.tokens.size());
    out.texts.push_back(std::move(measured));
  }
  if (!o.no_prompts)
    for (const char* prompt : kPrompts) out.prompts.push_back(tokenizer.encode(prompt, true));
  return out;
}

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

int run(const Context& context, Options o) {
  check_runs_on_cpu(context, "compare");
  const double start = now_seconds();
  o.resolve_group();
  const auto checkpoint = Checkpoint::open(resolve_model(o.model));
  const std::vector<Contender> contenders = contenders_of(o);
  for (const Contender& c : contenders)
    plan_quantize(*checkpoint, c.options, 0);  // what is wrong is said before text is read
  const auto tokenizer = load_tokenizer(*checkpoint);
  const CompareOptions options = compare_options(o, *tokenizer);
  const TextSet calibration = load_text(o.calib);
  QuantizeInputs inputs{cut_sequences(token_stream(calibration, *tokenizer), o.seq_len, o.sample_count()),
                        {},
                        Precision::kBf16};
  if (inputs.calibration.tokens() == 0)
    fail(Code::kBadArgument, "--calib {}: expected text, got none", o.calib);
  check_memory(*checkpoint, contenders, inputs.calibration.tokens());

  const Comparison comparison = compare_methods(*checkpoint, contenders, inputs, options, context.report);
  CompareFacts facts;
  facts.model = public_name(checkpoint->path());
  facts.calibration = calibration.name;
  facts.command = command_of(o);
  facts.machine = fmt::format("{} threads, {}", threads(), isa_name(isa()));
  facts.calibration_tokens = inputs.calibration.tokens();
  for (const MeasuredText& t : options.texts)
    facts.text_names.push_back(fmt::format("{}, {}", t.name, o.protocol));
  if (!o.no_prompts) facts.prompts.assign(std::begin(kPrompts), std::end(kPrompts));
  facts.seconds = now_seconds() - start;
  facts.tokenizer = tokenizer;
  if (!o.html.empty()) write_file_atomic(o.html, compare_page(comparison, facts));
  if (context.json) {
    print_json(compare_json(comparison, facts));
    return 0;
  }
  for (size_t t = 0; t < facts.text_names.size(); ++t) {
    print_line(facts.text_names[t]);
    print_line(text_table(compare_table(comparison, facts, t)) + "\n");
  }
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
  command.add_option("--samples", o->samples, "calibration sequences (default auto: 128)")
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
