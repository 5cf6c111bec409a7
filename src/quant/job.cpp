#include "quant/job.h"

#include <cmath>
#include <new>
#include <nlohmann/json.hpp>

#include "base/log.h"
#include "base/sha256.h"
#include "base/system.h"
#include "base/version.h"
#include "checkpoint/model_card.h"
#include "checkpoint/output_config.h"
#include "quant/rounding.h"
#include "quant/job_record.h"

namespace awq {
namespace {

constexpr int64_t kProbeTokens = 2048;  // of calibration text, from which the dtype is chosen

void check_ids(const TokenSequences& sequences, const ModelConfig& config, const std::string& name) {
  for (const int32_t id : sequences.ids)
    if (id < 0 || id >= config.vocab)
      fail(Code::kBadFile, "{}: the tokenizer gives id {}, the model's vocabulary has {}", name, id, config.vocab);
}

// The linears of each scheme, in the order in which schemes appear.
std::vector<OutputQuantization::Group> groups_of(const QuantizePlan& plan) {
  std::vector<OutputQuantization::Group> groups;
  for (const auto& block : plan.blocks)
    for (const PlannedLinear& l : block) {
      if (!l.quantized) continue;
      auto group = std::find_if(groups.begin(), groups.end(), [&](const auto& g) { return g.scheme == l.scheme; });
      if (group == groups.end()) group = groups.insert(groups.end(), {l.scheme, {}});
      group->modules.push_back(l.spec.module);
    }
  return groups;
}

nlohmann::ordered_json output_config(const Checkpoint& checkpoint, const QuantizePlan& plan, DType dtype) {
  if (!plan.form) return dense_config(checkpoint.config(), dtype);
  OutputQuantization out{*plan.form, plan.scheme, {}, {"lm_head"}};
  out.left_dense.insert(out.left_dense.end(), plan.not_converted.begin(), plan.not_converted.end());
  if (plan.mixed) out.groups = groups_of(plan);
  return packed_config(checkpoint.config(), out, dtype);
}

std::string worst_of(const std::vector<LayerReport>& layers) {
  const LayerReport* worst = nullptr;
  for (const LayerReport& l : layers)
    if (!std::isnan(l.relative_error) && (worst == nullptr || l.relative_error > worst->relative_error)) worst = &l;
  return worst != nullptr ? worst->module : "";
}

bool calibrates(const QuantizeJob& job) { return job.calibration.sequences.count() > 0 && awq::calibrates(job.options.method); }

Manifest describe(const Checkpoint& checkpoint, const QuantizeJob& job, const JobResult& result, const std::string& fingerprint) {
  Manifest m;
  m.tool = fmt::format("awq {}", kVersion);
  m.source = {public_name(checkpoint.path()), checkpoint.format().name, fingerprint};
  if (calibrates(job))
    m.calibration = Manifest::Calibration{job.calibration.name, job.calibration.sha256, job.calibration.sequences.count(),
                                          job.calibration.sequences.tokens()};
  m.method = job.options.method;
  m.scheme = result.plan.scheme_text();
  m.format = result.plan.format;
  m.options = job.manifest_options;
  for (const LayerReport& l : result.quantized.layers)
    m.layers.push_back({l.module, result.plan.linear(l.block, l.module).scheme.text(), l.relative_error, l.chosen});
  if (const auto& c = result.quantized.check)
    m.check = Manifest::Check{job.heldout->name, c->tokens, c->kl, c->kl_ci95, c->top1_agreement, c->perplexity_source, c->perplexity,
                              result.worst};
  return m;
}

std::string schemes_digest(const QuantizePlan& plan) {
  Sha256 hash;
  for (const auto& block : plan.blocks)
    for (const PlannedLinear& l : block) {
      const std::string line = l.spec.module + (l.quantized ? " " + l.scheme.text() : " dense") + "\n";
      hash.update(std::as_bytes(std::span(line)));
    }
  return hash.hex();
}

// Everything the blocks' bytes depend on.
JobIdentity identity_of(const QuantizeJob& job, const QuantizePlan& plan, const std::string& fingerprint) {
  const QuantizeOptions& o = job.options;
  JobIdentity identity = {{"tool", fmt::format("awq {}", kVersion)},
                          {"source", fingerprint},
                          {"--method", o.method},
                          {"--quality", o.quality},
                          {"--bits", std::to_string(plan.scheme.bits)},
                          {"--group-size", std::to_string(plan.scheme.group)},
                          {"--sym", o.symmetric ? "yes" : "no"},
                          {"--format", plan.format},
                          {"--dtype", o.dtype}};
  if (o.quality == "max") identity.emplace_back("--iterations", std::to_string(o.iterations));
  if (plan.mixed) identity.emplace_back("--plan", schemes_digest(plan));
  std::string skipped;
  for (const std::string& module : plan.not_converted) skipped += (skipped.empty() ? "" : ",") + module;
  identity.emplace_back("--skip", skipped.empty() ? "none" : skipped);
  identity.emplace_back("calibration text", calibrates(job) ? job.calibration.sha256 : "none");
  identity.emplace_back("calibration samples", calibrates(job) ? std::to_string(job.calibration.sequences.count()) : "none");
  identity.emplace_back("calibration tokens", calibrates(job) ? tokens_digest(job.calibration.sequences) : "none");
  identity.emplace_back("held-out tokens", job.heldout ? tokens_digest(job.heldout->sequences) : "none");
  identity.emplace_back("precision", job.precision == Precision::kBf16 ? "bfloat16" : "exact");
  identity.emplace_back("instruction set", isa_name(isa()));
  if (job.backend) identity.emplace_back("--device", "cuda");
  return identity;
}

// The states of one record, as they lie on disk; two records are kept.
int64_t states_bytes(const QuantizeJob& job, const QuantizePlan& plan) {
  const int64_t runs = !calibrates(job) ? 0 : job.options.quality == "max" ? 2 : 1;  // of the calibration text
  const int64_t tokens = runs * job.calibration.sequences.tokens() + (job.heldout ? 2 * job.heldout->sequences.tokens() : 0);
  return 2 * tokens * plan.config.hidden * static_cast<int64_t>(sizeof(float));
}

class Run {
 public:
  Run(const Checkpoint& checkpoint, const QuantizeJob& job, const ProgressFn& progress)
      : checkpoint_(checkpoint), job_(job), progress_(progress) {
    if (job.backend) check_runs_on_device(job.options);
    result_.plan = plan_quantize(checkpoint, job.options, calibration_tokens() + 2 * heldout_tokens());
    check_ids(job.calibration.sequences, result_.plan.config, checkpoint.path().string());
    if (job.heldout) check_ids(job.heldout->sequences, result_.plan.config, checkpoint.path().string());
    side_files_ = checkpoint.side_files();
    for (const auto& file : side_files_) writer_options_.side_bytes += static_cast<int64_t>(file.contents.size());
    writer_options_.side_bytes += states_bytes(job, result_.plan);
    writer_options_.force = job.force;
    // A refusal must not wait until the whole source has been read.
    if (!JobDirectory::exists(job.output)) check_output(job.output, output_plan(checkpoint, result_.plan, DType::kF16), writer_options_);
    const double start = now_seconds();
    fingerprint_ = checkpoint.fingerprint();
    log(Level::kDebug, "time: fingerprint {:.1f} s", now_seconds() - start);
    directory_.emplace(job.output, identity_of(job, result_.plan, fingerprint_), result_.plan.config.layers, job.start);
  }

  JobResult run() {
    if (published()) {
      finish_result();
    } else {
      work();
    }
    try {
      directory_->remove();
    } catch (const Error& error) {
      log(Level::kWarning, "{} (the output is complete)", error.what());
    }
    return std::move(result_);
  }

  // "12 of 30 blocks are kept: …", or nothing.
  std::string kept() const {
    const int64_t done = directory_ ? std::min(directory_->done(), result_.plan.config.layers) : 0;
    return done == 0 ? "" : fmt::format("{} of {} blocks are kept: the same command continues, --restart begins anew", done, result_.plan.config.layers);
  }
  int64_t memory_bytes() const { return result_.plan.memory_bytes; }

 private:
  int64_t calibration_tokens() const { return job_.calibration.sequences.tokens(); }
  int64_t heldout_tokens() const { return job_.heldout ? job_.heldout->sequences.tokens() : 0; }

  // Whether an earlier run was ended between putting the output in place and removing its traces.
  bool published() {
    if (directory_->records().empty() || directory_->records().front().done <= result_.plan.config.layers) return false;
    const JobReport report = parse_report(directory_->records().front().report, directory_->path().string());
    if (!holds_manifest(job_.output) || sha256_file(job_.output / kManifestFile) != report.manifest_sha256) return false;
    if (!verify_files(job_.output).empty()) return false;
    result_.quantized = report.result;
    result_.manifest = read_manifest(job_.output);
    result_.resumed_blocks = result_.plan.config.layers;
    return true;
  }

  // As an earlier run chose it, or by trying.
  DType dtype() const {
    for (const JournalRecord& record : directory_->records())
      if (record.done > 0) return parse_report(record.report, directory_->path().string()).result.dtype;
    return choose_dtype(checkpoint_, result_.plan, job_.options, first_sequences(job_.calibration.sequences, kProbeTokens),
                        job_.backend.get());
  }

  void work() {
    const double start = now_seconds();
    const DType chosen = dtype();
    log(Level::kDebug, "time: choosing the dtype {:.1f} s", now_seconds() - start);
    result_.resumed_blocks = std::min(directory_->done(), result_.plan.config.layers);
    writer_options_.working_dir = directory_->output_dir();
    CheckpointWriter writer(job_.output, output_plan(checkpoint_, result_.plan, chosen), writer_options_);
    const QuantizeInputs inputs{job_.calibration.sequences, job_.heldout ? job_.heldout->sequences : TokenSequences{}, job_.precision,
                                job_.backend.get()};
    result_.quantized = quantize_blocks(checkpoint_, result_.plan, job_.options, inputs, chosen, writer, *directory_, progress_);
    if (chosen == DType::kF16 && result_.quantized.activation_max > 65504.0f / 4)
      log(Level::kWarning, "activations reach {:.0f}, more than a quarter of float16's range: consider --dtype bfloat16",
          result_.quantized.activation_max);
    add_files(writer, chosen);
    commit_complete(writer);
    writer.publish();
    finish_result();
  }

  void add_files(CheckpointWriter& writer, DType chosen) {
    writer.add_file("config.json", output_config(checkpoint_, result_.plan, chosen).dump(2) + "\n");
    for (const auto& file : side_files_) writer.add_file(file.name, file.contents);
    result_.worst = worst_of(result_.quantized.layers);
    Manifest manifest = describe(checkpoint_, job_, result_, fingerprint_);
    CardFacts card;
    card.name = public_name(job_.output);
    card.base_model = manifest.source.name;
    card.license = checkpoint_.license();
    card.bits_per_weight = result_.plan.bits_per_weight;
    card.command = job_.command;
    writer.add_file("README.md", model_card(card, manifest));
    result_.manifest = writer.seal(std::move(manifest));
  }

  void commit_complete(const CheckpointWriter& writer) {
    JournalRecord record;
    record.done = result_.plan.config.layers + 1;
    record.tensors = writer.written();
    record.report = report_json({result_.quantized, sha256_file(writer.working_dir() / kManifestFile)});
    directory_->commit(std::move(record), {});
    directory_->wait_synced();
  }

  void finish_result() {
    result_.worst = worst_of(result_.quantized.layers);
    for (const auto& file : result_.manifest.files) result_.output_bytes += file.bytes;
    if (job_.backend) result_.device_peak_bytes = job_.backend->peak_bytes();
  }

  const Checkpoint& checkpoint_;
  const QuantizeJob& job_;
  const ProgressFn& progress_;
  std::vector<Checkpoint::SideFile> side_files_;
  WriterOptions writer_options_;
  std::string fingerprint_;
  std::optional<JobDirectory> directory_;
  JobResult result_;
};

}  // namespace

void check_runs_on_device(const QuantizeOptions& options) {
  if (!runs_on_device(options.method))
    fail(Code::kUnsupported, "--device cuda: expected --method awq, gptq or rtn, got {}; use --device auto or cpu", options.method);
  if (options.quality == "max")
    fail(Code::kUnsupported, "--device cuda: expected --quality fast or best, got max, which runs on the CPU: use --device auto or cpu");
}

JobResult run_quantize(const Checkpoint& checkpoint, const QuantizeJob& job, const ProgressFn& progress) {
  Run run(checkpoint, job, progress);
  const auto no_memory = [&] {
    const std::string kept = run.kept();
    fail(Code::kNoMemory, "out of memory: this job needs about {}, {} are available{}{}", human_bytes(static_cast<double>(run.memory_bytes())),
         human_bytes(static_cast<double>(available_ram_bytes())), kept.empty() ? "" : "; ", kept);
  };
  try {
    return run.run();
  } catch (const std::bad_alloc&) {
    no_memory();
    throw;
  } catch (const Error& error) {
    if (error.code() == Code::kNoMemory && !job.backend) no_memory();  // a device's own text says what it lacked
    const std::string kept = run.kept();
    if (error.code() == Code::kCancelled) fail(Code::kCancelled, "stopped: {}", kept.empty() ? "no block was finished, nothing is kept" : kept);
    if (kept.empty()) throw;
    fail(error.code(), "{}; {}", error.what(), kept);
  }
}

}  // namespace awq
