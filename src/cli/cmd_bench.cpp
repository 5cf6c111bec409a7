// awq bench: how fast a model reads prompts and generates on this machine, beside what the machine allows.
#include <fmt/core.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "base/system.h"
#include "base/thread_pool.h"
#include "checkpoint/hub_cache.h"
#include "checkpoint/json_file.h"
#include "cli/bench_run.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/sampling_options.h"
#include "cli/text_layout.h"
#include "kernels/limits.h"
#include "model/load_words.h"

namespace awq::cli {
namespace {

struct Options {
  std::string model, random_weights, precision = "fast", kernel = "auto", kv_dtype = "float16", pack_cache;
  BenchShape shape;
  SamplingParams sampling;
  RandomWeights random;
  int head_bits = 0;
  bool no_fuse = false, kernels = false, invariant = false, nf4 = false;
};

LoadOptions load_options(const Options& o, const Context& context) {
  LoadOptions load{precision_named(o.precision), context.report};
  load.head_bits = o.head_bits;
  load.invariant = o.invariant;
  load.pack_cache = o.pack_cache;
  load.device = model_device(context);
  load.product = o.kernel == "gemv" ? Product::kGemv : o.kernel == "gemm" ? Product::kGemm : Product::kInvariant;
  load.fuse = !o.no_fuse;
  return load;
}

std::shared_ptr<const Model> load_model(const Options& o, const Context& context) {
  const LoadOptions load = load_options(o, context);
  if (o.random_weights.empty()) return Model::load(*Checkpoint::open(resolve_model(o.model)), load);
  return random_model(read_json_object(o.random_weights), o.random_weights, o.random, load);
}

nlohmann::ordered_json kernel_json(const std::vector<KernelRow>& rows) {
  auto list = nlohmann::ordered_json::array();
  for (const KernelRow& r : rows)
    list.push_back({{"linear", r.linear},
                    {"tokens", r.tokens},
                    {"auto_us", r.auto_us},
                    {"gemv_us", r.gemv_us > 0 ? nlohmann::ordered_json(r.gemv_us) : nlohmann::ordered_json()},
                    {"gemm_us", r.gemm_us},
                    {"bf16_us", r.bf16_us},
                    {"bytes_per_s", static_cast<double>(r.bytes) / r.auto_us * 1e6}});
  return list;
}

// What is reported, computed once for both forms of output.
struct Report {
  BenchResult result;
  MachineLimits limits;
  std::map<std::string, int64_t> kernels;
  int64_t weight_bytes = 0, peak_rss_bytes = 0;
  double load_seconds = 0, bandwidth_fraction = 0, operation_fraction = 0;
  std::vector<KernelRow> rows;
};

nlohmann::ordered_json number_or_null(double v) {
  return v > 0 ? nlohmann::ordered_json(v) : nlohmann::ordered_json();
}

void print_report_json(const Options& o, const Report& r) {
  nlohmann::ordered_json json = {{"schema", "awq.bench/1"},
                                 {"model", o.random_weights.empty() ? o.model : o.random_weights},
                                 {"precision", o.precision},
                                 {"kernels", r.kernels},
                                 {"threads", threads()},
                                 {"prompt_tokens", o.shape.prompt},
                                 {"context", o.shape.context},
                                 {"batch", o.shape.batch},
                                 {"prefill_tokens_per_s", number_or_null(r.result.prefill_tokens_per_s)},
                                 {"decode_tokens_per_s", number_or_null(r.result.decode_tokens_per_s)},
                                 {"bytes_per_token", r.result.bytes_per_step / o.shape.batch},
                                 {"bandwidth_fraction", number_or_null(r.bandwidth_fraction)},
                                 {"operation_fraction", number_or_null(r.operation_fraction)},
                                 {"read_bytes_per_s", number_or_null(r.limits.read_bytes_per_s)},
                                 {"int8_ops_per_s", number_or_null(r.limits.int8_ops_per_s)},
                                 {"int8_set", r.limits.int8_set},
                                 {"weight_bytes", r.weight_bytes},
                                 {"cache_bytes", r.result.cache_bytes},
                                 {"rss_bytes", r.result.rss_bytes},
                                 {"peak_rss_bytes", r.peak_rss_bytes},
                                 {"load_seconds", r.load_seconds}};
  if (o.shape.sampling) json["host_draws"] = r.result.host_draws;
  if (o.kernels) {
    json["crossover_sequences"] = crossover(r.rows);
    json["kernel_table"] = kernel_json(r.rows);
  }
  print_json(json);
}

void print_report(const Options& o, const Report& r) {
  for (const auto& [name, bytes] : r.kernels)
    print_line(fmt::format("weights   {} in {}", human_bytes(static_cast<double>(bytes)), name));
  const bool limits = r.limits.read_bytes_per_s > 0;
  if (limits)
    print_line(fmt::format("limits    {} threads read {:.1f} GB/s; {:.0f} GOP/s in int8 ({})", threads(),
                           r.limits.read_bytes_per_s * 1e-9, r.limits.int8_ops_per_s * 1e-9,
                           r.limits.int8_set));
  if (o.shape.prompt > 0)
    print_line(fmt::format("prefill   {:.1f} tokens/s over {} tokens{}", r.result.prefill_tokens_per_s,
                           o.shape.prompt,
                           limits ? fmt::format(": {:.0f} % of that peak", 100 * r.operation_fraction) : ""));
  if (o.shape.decode > 0)
    print_line(fmt::format(
        "decode    {:.2f} tokens/s, {} sequence{} after {} tokens: {} a step{}",
        r.result.decode_tokens_per_s, o.shape.batch, o.shape.batch == 1 ? "" : "s", o.shape.context,
        human_bytes(static_cast<double>(r.result.bytes_per_step)),
        limits ? fmt::format(", {:.0f} % of the bandwidth", 100 * r.bandwidth_fraction) : ""));
  if (o.shape.sampling && o.shape.decode > 0)
    print_line(fmt::format("sampling  {:.2f} % of the tokens drawn from logits in host memory", 100 * r.result.host_draws));
  if (!o.kernels) return;
  report::Table table;
  table.columns = {{"linear", false}, {"tokens", true},  {"auto us", true}, {"gemv us", true},
                   {"gemm us", true}, {"bf16 us", true}, {"GB/s", true}};
  for (const KernelRow& k : r.rows)
    table.rows.push_back({k.linear, std::to_string(k.tokens), fmt::format("{:.0f}", k.auto_us),
                          k.gemv_us > 0 ? fmt::format("{:.0f}", k.gemv_us) : "-",
                          fmt::format("{:.0f}", k.gemm_us), fmt::format("{:.0f}", k.bf16_us),
                          fmt::format("{:.1f}", static_cast<double>(k.bytes) / k.auto_us * 1e-3)});
  print_line(text_table(table));
  print_line(fmt::format("faster than 16 bits up to {} sequences (of those measured)", crossover(r.rows)));
}

int run(const Options& o, const Context& context) {
  if (o.kernels) check_runs_on_cpu(context, "bench --kernels");
  check_sampling(o.sampling);
  Report r;
  const double start = now_seconds();
  const auto model = load_model(o, context);
  r.load_seconds = now_seconds() - start;
  context.end_report();
  BenchShape shape = o.shape;
  shape.kv_dtype = kv_dtype_named(o.kv_dtype);
  if (const int64_t needed = std::max(shape.prompt, shape.context + shape.decode);
      needed > model->config().max_position)
    fail(Code::kBadArgument, "{} tokens: the model's context ends at {}", needed,
         model->config().max_position);
  r.result = run_bench(*model, shape);
  r.peak_rss_bytes = peak_rss_bytes();
  r.weight_bytes = model->bytes();
  r.kernels = model->kernels();
  const bool on_device = model->device() != nullptr;
  if (!on_device) r.limits = measure_limits();  // of this processor; a device is not measured against them
  if (o.kernels) r.rows = kernel_table(model->config(), o.random, load_options(o, context));
  if (!on_device && r.result.decode_step_seconds > 0)
    r.bandwidth_fraction = static_cast<double>(r.result.bytes_per_step) / r.result.decode_step_seconds /
                           r.limits.read_bytes_per_s;
  if (!on_device && r.result.prefill_tokens_per_s > 0)
    r.operation_fraction = r.result.prefill_ops / static_cast<double>(shape.prompt) *
                           r.result.prefill_tokens_per_s / r.limits.int8_ops_per_s;
  context.json ? print_report_json(o, r) : print_report(o, r);
  return 0;
}

void add_shape_options(CLI::App& command, Options& o) {
  const auto count = [&](const char* name, int64_t& value, int64_t least, const char* text) {
    command.add_option(name, value, text)
        ->check(CLI::Range(least, int64_t{1} << 24))
        ->type_name("N")
        ->capture_default_str();
  };
  count("--prompt-tokens", o.shape.prompt, 0, "tokens of a prefill; 0: none");
  count("--context", o.shape.context, 1, "tokens in the cache before decoding");
  count("--decode-tokens", o.shape.decode, 0, "tokens decoded in each repetition; 0: none");
  count("--batch", o.shape.batch, 1, "sequences decoded together");
  count("--repeat", o.shape.repeat, 1, "repetitions; the median counts");
  add_kv_dtype_option(command, o.kv_dtype);
}

void add_random_options(CLI::App& command, Options& o) {
  const char* group = "Made-up weights";
  command.add_option("--random-weights", o.random_weights, "a config.json: measure a model of that shape")
      ->type_name("FILE")
      ->group(group);
  command.add_option("--bits", o.random.bits, "of its linears; 16 is bfloat16")
      ->check(CLI::IsMember({2, 3, 4, 5, 6, 7, 8, 16}))
      ->type_name("N")
      ->capture_default_str()
      ->group(group);
  command.add_flag("--int8-activations", o.random.int8_activations, "8 bits with inputs in int8, as SmoothQuant's models run")->group(group);
  command.add_flag("--nf4", o.nf4, "NF4 in blocks of 64")->group(group);
  command.add_option("--group-size", o.random.group, "columns that share a scale; -1: whole rows")
      ->check(CLI::IsMember({-1, 32, 64, 128}))
      ->type_name("N")
      ->capture_default_str()
      ->group(group);
}

}  // namespace

void add_bench(CLI::App& app, Context& context) {
  const auto o = std::make_shared<Options>();
  auto& command = add_command(app, context,
                              {"bench", "Measure speed beside the machine's limits",
                               "awq bench ./model-awq --head-bits 8\n"
                               "awq bench --random-weights config.json --bits 4 --batch 16"},
                              [o, &context] { return run(*o, context); });
  command.add_option("MODEL", o->model, "folder, .gguf file or org/name");
  add_shape_options(command, *o);
  add_precision_options(command, o->precision, o->head_bits);
  add_invariant_option(command, o->invariant);
  add_pack_cache_option(command, o->pack_cache);
  command.add_option("--kernel", o->kernel, "auto|gemv|gemm: how tokens meet the weights")
      ->check(one_of({"auto", "gemv", "gemm"}))
      ->type_name("NAME")
      ->capture_default_str();
  add_sampling_options(command, o->sampling);
  command.add_flag("--host-sampling", o->shape.host_sampling, "draw from logits in host memory, on a GPU too")->group("Sampling");
  command.add_flag("--no-fuse", o->no_fuse, "q, k, v and gate, up as products of their own");
  command.add_flag("--kernels", o->kernels, "a table of every product, and where 16 bits catch up");
  add_random_options(command, *o);
  command.parse_complete_callback([o, &command] {
    if (o->random_weights.empty() == o->model.empty())
      throw CLI::ValidationError("bench", "expected MODEL or --random-weights config.json, one of them");
    if (o->nf4 && o->random.int8_activations) throw CLI::ValidationError("bench", "expected --nf4 or --int8-activations, one of them");
    if (o->random.int8_activations) o->random.bits = 8;
    // Without any of these a step ends with the likeliest token on a device, with logits on the CPU.
    const bool samples = command.count("--temperature") > 0 || o->sampling.repetition_penalty != 1 || o->shape.host_sampling;
    if (samples) o->shape.sampling = o->sampling;
    if (o->nf4) o->random.bits = 4, o->random.code = CodeKind::kNf4;
  });
}

}  // namespace awq::cli
