#include "quant/job.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "base/log.h"
#include "base/version.h"
#include "checkpoint/model_card.h"
#include "checkpoint/output_config.h"

namespace awq {
namespace {

constexpr int64_t kProbeTokens = 2048;

// The first sequences of the calibration text, about kProbeTokens.
TokenSequences probe_of(const TokenSequences& all) {
  TokenSequences probe;
  for (const int64_t length : all.lengths) {
    if (probe.tokens() >= kProbeTokens) break;
    const auto begin = all.ids.begin() + probe.tokens();
    probe.ids.insert(probe.ids.end(), begin, begin + length);
    probe.lengths.push_back(length);
  }
  return probe;
}

void check_ids(const TokenSequences& sequences, const ModelConfig& config, const std::string& name) {
  for (const int32_t id : sequences.ids)
    if (id < 0 || id >= config.vocab)
      fail(Code::kBadFile, "{}: the tokenizer gives id {}, the model's vocabulary has {}", name, id, config.vocab);
}

nlohmann::ordered_json output_config(const Checkpoint& checkpoint, const QuantizePlan& plan, DType dtype) {
  if (plan.format == "dense") return dense_config(checkpoint.config(), dtype);
  AwqConfig awq;
  awq.bits = plan.scheme.bits;
  awq.group_size = plan.scheme.group;
  awq.modules_to_not_convert = {"lm_head"};
  awq.modules_to_not_convert.insert(awq.modules_to_not_convert.end(), plan.not_converted.begin(), plan.not_converted.end());
  return quantized_config(checkpoint.config(), awq, dtype);
}

std::string worst_of(const std::vector<LayerReport>& layers) {
  const LayerReport* worst = nullptr;
  for (const LayerReport& l : layers)
    if (!std::isnan(l.relative_error) && (worst == nullptr || l.relative_error > worst->relative_error)) worst = &l;
  return worst != nullptr ? worst->module : "";
}

Manifest describe(const Checkpoint& checkpoint, const QuantizeJob& job, const JobResult& result) {
  Manifest m;
  m.tool = fmt::format("awq {}", kVersion);
  m.source = {public_name(checkpoint.path()), checkpoint.format().name, checkpoint.fingerprint()};
  if (job.calibration.sequences.count() > 0 && job.options.method != "rtn")
    m.calibration = Manifest::Calibration{job.calibration.name, job.calibration.sha256, job.calibration.sequences.count(),
                                          job.calibration.sequences.tokens()};
  m.method = job.options.method;
  m.scheme = result.plan.scheme.text();
  m.format = result.plan.format;
  m.options = job.manifest_options;
  for (const LayerReport& l : result.quantized.layers)
    m.layers.push_back({l.module, result.plan.scheme.text(), l.relative_error, l.chosen});
  if (const auto& c = result.quantized.check)
    m.check = Manifest::Check{job.heldout->name, c->tokens, c->kl, c->kl_ci95, c->top1_agreement, c->perplexity_source, c->perplexity,
                              result.worst};
  return m;
}

}  // namespace

JobResult run_quantize(const Checkpoint& checkpoint, const QuantizeJob& job, const ProgressFn& progress) {
  JobResult result;
  const int64_t tokens = job.calibration.sequences.tokens() + (job.heldout ? 2 * job.heldout->sequences.tokens() : 0);
  result.plan = plan_quantize(checkpoint, job.options, tokens);
  check_ids(job.calibration.sequences, result.plan.config, checkpoint.path().string());
  if (job.heldout) check_ids(job.heldout->sequences, result.plan.config, checkpoint.path().string());

  const auto side_files = checkpoint.side_files();
  WriterOptions writer_options;
  writer_options.force = job.force;
  for (const auto& file : side_files) writer_options.side_bytes += static_cast<int64_t>(file.contents.size());
  const TokenSequences probe = probe_of(job.calibration.sequences);
  // The writer before the work: an output that may not be replaced, or a full disk, must not cost a calibration.
  const DType dtype = choose_dtype(checkpoint, result.plan, job.options, probe);
  CheckpointWriter writer(job.output, output_plan(checkpoint, result.plan, dtype), writer_options);
  QuantizeInputs inputs{job.calibration.sequences, job.heldout ? job.heldout->sequences : TokenSequences{}, job.precision};
  result.quantized = quantize_blocks(checkpoint, result.plan, job.options, inputs, dtype, writer, progress);
  result.worst = worst_of(result.quantized.layers);
  if (dtype == DType::kF16 && result.quantized.activation_max > 65504.0f / 4)
    log(Level::kWarning, "activations reach {:.0f}, more than a quarter of float16's range: consider --dtype bfloat16",
        result.quantized.activation_max);

  writer.add_file("config.json", output_config(checkpoint, result.plan, dtype).dump(2) + "\n");
  for (const auto& file : side_files) writer.add_file(file.name, file.contents);
  Manifest manifest = describe(checkpoint, job, result);
  CardFacts card;
  card.name = public_name(job.output);
  card.base_model = manifest.source.name;
  card.license = checkpoint.license();
  card.bits_per_weight = result.plan.bits_per_weight;
  card.command = job.command;
  writer.add_file("README.md", model_card(card, manifest));
  result.manifest = writer.finish(std::move(manifest));
  for (const auto& file : result.manifest.files) result.output_bytes += file.bytes;
  return result;
}

}  // namespace awq
