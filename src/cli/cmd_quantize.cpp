// awq quantize: a checkpoint goes in, a calibrated 4-bit checkpoint comes out, with the check that shows how
// good it is.
#include <fmt/core.h>

#include <cmath>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/log.h"
#include "base/system.h"
#include "base/thread_pool.h"
#include "checkpoint/chat_source.h"
#include "checkpoint/hub_cache.h"
#include "checkpoint/tokenizer_source.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "quant/job.h"
#include "quant/request.h"
#include "text/chat.h"
#include "text/text_source.h"

namespace awq::cli {
namespace {

using Json = nlohmann::ordered_json;

// Above these the result deserves a word of advice; a good 4-bit model of a few billion weights stays under
// 0.05.
constexpr double kPoorKl = 0.25;
constexpr int64_t kFewTokens = 4096;

struct Options : QuantizeRequest {
  uint64_t vram_bytes = 0;
  bool no_check = false, dry_run = false, force = false, resume = false, restart = false;
};

std::string default_output(const std::filesystem::path& model) {
  std::string name = public_name(model);
  if (name.ends_with(".gguf")) name.resize(name.size() - 5);
  const size_t slash = name.rfind('/');
  return (slash == std::string::npos ? name : name.substr(slash + 1)) + "-awq";
}

NamedTokens tokens_of(const TextSet& text, const Tokenizer& tokenizer, int64_t seq_len, int64_t samples) {
  NamedTokens out{text.name, text.sha256, {}};
  const std::vector<int32_t> stream = token_stream(text, tokenizer);
  out.sequences = cut_sequences(stream, seq_len, samples);
  return out;
}

NamedTokens calibration_of(const Context& context, const Options& o, const Checkpoint& checkpoint, const Tokenizer& tokenizer,
                           SampleChoice& choice) {
  std::optional<ChatRenderer> chat;  // only where there are conversations
  const auto conversation = [&](const std::string& record) {
    if (!chat) chat.emplace(chat_source(checkpoint));
    return conversation_text(*chat, record);
  };
  const TextSet text = load_text(o.calib, Builtin::kCalibration, conversation);
  choice = calibration_sequences(checkpoint, o, o.quantize, token_stream(text, tokenizer), context.report);
  NamedTokens calibration{text.name, text.sha256, std::move(choice.sequences)};
  if (calibration.sequences.tokens() == 0)
    fail(Code::kBadArgument, "--calib {}: expected text, got none", o.calib);
  if (calibration.sequences.tokens() < kFewTokens)
    log(Level::kWarning,
        "only {} tokens of calibration text: scales from so little text fit it too closely (128 x 512 is "
        "usual)",
        calibration.sequences.tokens());
  return calibration;
}

Json plan_json(const QuantizePlan& plan, const Checkpoint& checkpoint, const std::string& output) {
  Json skipped = Json::array();
  for (const auto& block : plan.blocks)
    for (const PlannedLinear& l : block)
      if (!l.quantized) skipped.push_back({{"module", l.spec.module}, {"because", l.skipped_because}});
  return {{"schema", "awq.quantize-plan/1"},
          {"output", output},
          {"architecture", plan.config.model_type},
          {"source_format", checkpoint.format().name},
          {"scheme", plan.scheme_text()},
          {"group_size", plan.scheme.group},
          {"format", plan.format},
          {"linears", plan.quantized_linears},
          {"skipped", skipped},
          {"bits_per_weight", plan.bits_per_weight},
          {"weight_bytes", plan.weight_bytes},
          {"source_bytes", plan.source_bytes},
          {"memory_bytes", plan.memory_bytes},
          {"disk_free_bytes", free_disk_bytes(output)}};
}

// Forward passes over calibration and held-out text, and the search, at the rate this machine's kernels
// reach.
double estimate_seconds(const QuantizePlan& plan, const QuantizeOptions& options, int64_t tokens, int64_t heldout_tokens) {
  const double weights = static_cast<double>(plan.quantized_weights);
  const double head = static_cast<double>(plan.config.vocab * plan.config.hidden);
  const double forward = 2 * weights * static_cast<double>(tokens + 2 * heldout_tokens) +
                         4 * head * static_cast<double>(heldout_tokens);
  const double gram = static_cast<double>(tokens) * static_cast<double>(plan.config.layers) *
                      (3.0 * static_cast<double>(plan.config.hidden * plan.config.hidden) +
                       static_cast<double>(plan.config.intermediate * plan.config.intermediate));
  const double search =
      weights * 2 * 6 * static_cast<double>(plan.config.hidden + plan.config.intermediate) / 2 +
      weights * 3e4;
  // A step is a forward pass and two products of its size backward, over 2048 tokens.
  const double tuning = options.quality != "max" ? 0 : 6 * weights * 2048 * options.iterations;
  const double rate = (isa() >= Isa::kAvx512Bf16 ? 1.5e11 : isa() >= Isa::kAvx2 ? 8e10 : 5e9) * threads();
  return (forward + gram + search + tuning) / rate;
}

void warn_about_source(const Checkpoint& checkpoint) {
  const SourceFormat format = checkpoint.format();
  if (format.quantized)
    log(Level::kWarning, "source is {} ({:.1f} bits per weight): quality is relative to it", format.name,
        format.bits_per_weight);
}

int dry_run(const Context& context, const Options& o, const Checkpoint& checkpoint,
            const std::string& output) {
  const int64_t calibration = !calibrates(o.quantize.method) ? 0 : o.sample_count() * o.seq_len;
  const int64_t heldout = o.no_check ? 0 : kHeldoutSeqLen * kHeldoutSequences;
  const QuantizePlan plan = plan_quantize(checkpoint, o.quantize, calibration + 2 * heldout);
  warn_about_source(checkpoint);
  const double seconds = estimate_seconds(plan, o.quantize, calibration, heldout);
  Json json = plan_json(plan, checkpoint, output);
  json["seconds_estimate"] = seconds;
  if (context.json) {
    print_json(json);
    return 0;
  }
  const int64_t weights =
      plan.quantized_weights + plan.config.vocab * plan.config.hidden * (plan.config.tied ? 1 : 2);
  print_line(fmt::format("model   {}: {}, {} blocks, {:.1f} million weights, {}",
                         public_name(checkpoint.path()), plan.config.model_type, plan.config.layers,
                         static_cast<double>(weights) / 1e6, checkpoint.format().name));
  print_line(fmt::format("plan    {} with {}, group size {}, format {}: {} linears, {:.2f} bits per weight",
                         o.quantize.method, plan.scheme_text(), plan.scheme.group, plan.format,
                         plan.quantized_linears, plan.bits_per_weight));
  for (const auto& skipped : json["skipped"])
    print_line(fmt::format("skip    {}: {}", skipped["module"].get<std::string>(),
                           skipped["because"].get<std::string>()));
  print_line("skip    embeddings, norms and lm_head: AWQ loaders expect them in 16 bits");
  print_line(fmt::format("output  {}/   {} of weights (exact; was {}), {} free on disk", output,
                         human_bytes(static_cast<double>(plan.weight_bytes)),
                         human_bytes(static_cast<double>(plan.source_bytes)),
                         human_bytes(static_cast<double>(free_disk_bytes(output)))));
  print_line(fmt::format("needs   about {} of memory ({} available), about {} on {} threads ({})",
                         human_bytes(static_cast<double>(plan.memory_bytes)),
                         human_bytes(static_cast<double>(available_ram_bytes())), human_seconds(seconds),
                         threads(), isa_name(isa())));
  return 0;
}

Json result_json(const Options& o, const JobResult& r, const std::string& output,
                 const Checkpoint& checkpoint, double seconds) {
  Json layers = Json::array();
  for (const LayerReport& l : r.quantized.layers)
    layers.push_back({{"module", l.module},
                      {"scheme", r.plan.linear(l.block, l.module).scheme.text()},
                      {"relative_error", json_number(l.relative_error)},
                      {"group_loss", json_number(l.group_loss)},
                      {"group_awq_loss", json_number(l.group_awq_loss)},
                      {"chosen", l.chosen}});
  Json json = {{"schema", "awq.quantize/1"},
               {"output", output},
               {"method", o.quantize.method},
               {"scheme", r.plan.scheme_text()},
               {"format", r.plan.format},
               {"dtype", r.quantized.dtype == DType::kF16 ? "float16" : "bfloat16"},
               {"bits_per_weight", r.plan.bits_per_weight},
               {"linears", r.plan.quantized_linears},
               {"bytes", r.output_bytes},
               {"weight_bytes", r.plan.weight_bytes},
               {"source_bytes", r.plan.source_bytes},
               {"source_format", checkpoint.format().name},
               {"seconds", seconds},
               {"peak_rss_bytes", peak_rss_bytes()},
               {"device_peak_bytes", r.device_peak_bytes},
               {"isa", isa_name(isa())},
               {"threads", threads()},
               {"resumed_blocks", r.resumed_blocks}};
  if (const auto& c = r.quantized.check)
    json["check"] = {{"kl", c->kl},
                     {"kl_ci95", c->kl_ci95},
                     {"top1_agreement", c->top1_agreement},
                     {"perplexity", c->perplexity},
                     {"perplexity_source", c->perplexity_source},
                     {"tokens", c->tokens}};
  if (!r.worst.empty()) json["worst"] = r.worst;
  json["depth_error"] = r.quantized.depth_error;
  json["layers"] = std::move(layers);
  return json;
}

std::string short_module(std::string module) {
  return module.starts_with("model.") ? module.substr(6) : module;
}

void print_summary(const JobResult& r, const std::string& output, double seconds) {
  print_line(fmt::format("wrote  {}/   {} (was {})   {:.2f} bits per weight, {} linears   {}, peak {}",
                         output, human_bytes(static_cast<double>(r.plan.weight_bytes)),
                         human_bytes(static_cast<double>(r.plan.source_bytes)), r.plan.bits_per_weight,
                         r.plan.quantized_linears, human_seconds(seconds),
                         human_bytes(static_cast<double>(peak_rss_bytes()))));
  if (const auto& c = r.quantized.check)
    print_line(
        fmt::format("check  KL {:.4f} ±{:.4f}   same next token {:.1f} %   perplexity {:.2f} → {:.2f} "
                    "({:+.1f} %)   worst: {}",
                    c->kl, c->kl_ci95, 100 * c->top1_agreement, c->perplexity_source, c->perplexity,
                    100 * (c->perplexity / c->perplexity_source - 1), short_module(r.worst)));
  const bool loads =
      r.plan.form && *r.plan.form != StoredForm::kBnbNf4 && *r.plan.form != StoredForm::kBnbInt8;
  const bool bare = output.find('/') == std::string::npos;
  print_line(fmt::format("next   awq generate {} -p …{}", output,
                         loads ? fmt::format("   |   vllm serve {}{}", bare ? "./" : "", output) : ""));
}

void advise(const Options& o, const JobResult& r) {
  if (!r.quantized.check || !(r.quantized.check->kl > kPoorKl)) return;
  std::string advice;
  if (o.quantize.method == "rtn")
    advice = "use --method awq";
  else if (r.plan.scheme.bits < 4)
    advice = "use 4 bits";
  else if (r.plan.scheme.group < 0 || r.plan.scheme.group > 32)
    advice = "try --group-size 32, or leave out the worst: --skip " + short_module(r.worst);
  else
    advice = "leave out the worst: --skip " + short_module(r.worst);
  log(Level::kWarning, "KL {:.3f} is poor: answers will differ noticeably from the source's; {}",
      r.quantized.check->kl, advice);
}

int run(const Context& context, Options o) {
  o.cuda = model_device(context) == Device::kCuda;
  if (o.vram_bytes > 0 && !o.cuda) fail(Code::kBadArgument, "--vram: expected --device cuda beside it");
  if (o.cuda) check_runs_on_device(o.quantize);
  const std::shared_ptr<QuantBackend> backend = o.cuda ? make_cuda_quant_backend(static_cast<int64_t>(o.vram_bytes)) : nullptr;
  const double start = now_seconds();
  o.resolve_group();
  o.load_plan();
  const std::filesystem::path model = resolve_model(o.model);
  const auto checkpoint = Checkpoint::open(model);
  const std::string output = o.output.empty() ? default_output(model) : o.output;
  if (o.dry_run) return dry_run(context, o, *checkpoint, output);
  // A refusal must not wait for the text to be tokenized.
  const QuantizePlan plan = plan_quantize(*checkpoint, o.quantize, 0);
  WriterOptions writer_options;
  writer_options.force = o.force;
  if (!JobDirectory::exists(output)) {
    if (o.resume) fail(Code::kNotFound, "{}: --resume: there is no unfinished job for this output", output);
    check_output(output, output_plan(*checkpoint, plan, DType::kF16), writer_options);
  }
  warn_about_source(*checkpoint);

  const auto tokenizer = load_tokenizer(*checkpoint);
  SampleChoice choice;
  QuantizeJob job;
  job.options = o.quantize;
  job.backend = backend;
  job.output = output;
  job.force = o.force;
  job.start = o.resume ? JobStart::kResume : o.restart ? JobStart::kRestart : JobStart::kContinue;
  if (calibrates(o.quantize.method)) job.calibration = calibration_of(context, o, *checkpoint, *tokenizer, choice);
  if (!o.no_check) job.heldout = tokens_of(builtin_heldout(), *tokenizer, kHeldoutSeqLen, kHeldoutSequences);
  job.manifest_options = manifest_options(o);
  job.command = quantize_command(o, output);
  const JobResult result = run_quantize(*checkpoint, job, context.report);
  const double seconds = now_seconds() - start;
  if (context.json) {
    Json json = result_json(o, result, output, *checkpoint, seconds);
    json["samples"] = samples_json(choice);
    print_json(json);
  } else {
    if (choice.automatic) print_line("calib  " + samples_text(choice, o.seq_len));
    print_summary(result, output, seconds);
  }
  advise(o, result);
  return 0;
}

}  // namespace

void add_quantize(CLI::App& app, Context& context) {
  auto o = std::make_shared<Options>();
  auto& command = add_command(app, context,
                              {"quantize", "Quantize a checkpoint, check it, and write it for AWQ loaders",
                               "awq quantize ./Qwen2.5-1.5B-Instruct\n"
                               "awq quantize model.gguf -o model-awq --calib my-texts.jsonl"},
                              [&context, o] { return run(context, *o); });
  command.add_option("model", o->model, "Hugging Face directory, .gguf file, or org/name in the cache")
      ->required()
      ->type_name("MODEL");
  command.add_option("-o,--output", o->output, "output directory (default ./NAME-awq)")->type_name("DIR");
  command
      .add_option("--method", o->quantize.method, "awq (default)|autoawq|gptq|rtn|nf4|smoothquant|llm-int8")
      ->check(one_of({"awq", "autoawq", "gptq", "rtn", "nf4", "smoothquant", "llm-int8"}))
      ->type_name("NAME");
  command
      .add_option("--quality", o->quantize.quality,
                  "fast: searched grids; best (default): errors compensated too; max: blocks tuned with gradients too")
      ->check(one_of({"fast", "best", "max"}))
      ->type_name("NAME");
  command.add_option("--iterations", o->quantize.iterations, "steps of --quality max per block (default 200)")
      ->check(CLI::Range(1, 100000))
      ->type_name("N");
  command
      .add_option("--bits", o->quantize.bits,
                  "bits per weight, 2 to 8 (default 4; 8 for smoothquant and llm-int8)")
      ->check(CLI::Range(2, 8))
      ->type_name("N");
  command
      .add_option("--group-size", o->group, "weights sharing a scale: auto, a number, or -1 for all of a row")
      ->check([](const std::string& v) { return v == "-1" ? std::string{} : whole_number_or_auto(v); })
      ->type_name("N");
  command.add_flag("--sym", o->quantize.symmetric, "symmetric: no zero points");
  command.add_option("--format", o->quantize.format, "auto|gemm|gptq[-v2]|compressed-tensors|bnb-*|dense")
      ->check(
          one_of({"auto", "gemm", "gptq", "gptq-v2", "compressed-tensors", "bnb-nf4", "bnb-int8", "dense"}))
      ->type_name("NAME");
  command.add_option("--dtype", o->quantize.dtype, "auto|float16|bfloat16 of everything not quantized")
      ->check(one_of({"auto", "float16", "bfloat16"}))
      ->type_name("NAME");
  command.add_option("--calib", o->calib, "builtin, a .txt or .jsonl ({\"text\": ...}) file, or - for stdin")
      ->type_name("TEXT");
  command.add_option("--samples", o->samples, "calibration sequences (default 128), or auto: as many as change anything")
      ->check(whole_number_or_auto)
      ->type_name("N");
  command.add_option("--seq-len", o->seq_len, "tokens per calibration sequence (default 512)")
      ->check(CLI::Range(8, 32768))
      ->type_name("N");
  command
      .add_option("--skip", o->quantize.skip,
                  "leave linears out: down_proj, layers.3, layers.0.mlp.up_proj, ...")
      ->allow_extra_args(false)
      ->type_name("NAME");
  command.add_option("--plan", o->plan, "bits and groups of each linear: a file that awq diagnose -o wrote")
      ->type_name("FILE");
  command.add_option("--vram", o->vram_bytes, "of the GPU's memory, with --device cuda (default: what is free)")
      ->transform(CLI::AsSizeValue(false))
      ->type_name("SIZE");
  command.add_flag("--no-check", o->no_check, "do not compare the result with the source");
  command.add_flag("--dry-run", o->dry_run, "read headers only; say what would be done");
  auto* resume =
      command.add_flag("--resume", o->resume, "fail unless there is an unfinished job to continue");
  command.add_flag("--restart", o->restart, "discard an unfinished job and begin anew")->excludes(resume);
  command.add_flag("--force", o->force, "replace a finished output directory");
}

}  // namespace awq::cli
