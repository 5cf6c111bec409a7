// Quantization as `awq quantize` does it: equal options give equal bytes, the model card and manifest
// included.
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/system.h"
#include "bindings.h"
#include "checkpoint/hub_cache.h"
#include "checkpoint/model_card.h"
#include "checkpoint/tokenizer_source.h"
#include "quant/job.h"
#include "quant/request.h"
#include "text/text_source.h"

namespace awq::python {
namespace {

struct Options : QuantizeRequest {
  bool check = true, force = false;
};

// Text that is already tokens, and what to say about it.
struct Calibration {
  std::string name, sha256;
  std::vector<int32_t> ids;
};

NamedTokens heldout_of(const Tokenizer& tokenizer) {
  const TextSet& text = builtin_heldout();
  return {text.name, text.sha256,
          cut_sequences(token_stream(text, tokenizer), kHeldoutSeqLen, kHeldoutSequences)};
}

// A finished quantization, and what it takes to write it once more under another name.
struct Quantized {
  std::shared_ptr<const Checkpoint> source;
  Options options;
  JobResult result;
  SampleChoice samples;  // without its sequences
  double seconds = 0;
};

std::shared_ptr<Quantized> run(Options o, Calibration calibration, const ProgressFn& progress) {
  const double start = now_seconds();
  auto out = std::make_shared<Quantized>();
  o.resolve_group();
  out->source = Checkpoint::open(resolve_model(o.model));
  plan_quantize(*out->source, o.quantize, 0);  // what is wrong with the options comes before the text
  QuantizeJob job;
  job.options = o.quantize;
  job.output = o.output;
  job.force = o.force;
  if (calibrates(o.quantize.method)) {
    job.calibration = {calibration.name, calibration.sha256,
                       {}};
    out->samples = calibration_sequences(*out->source, o, o.quantize, calibration.ids, progress);
    job.calibration.sequences = std::move(out->samples.sequences);
    if (job.calibration.sequences.tokens() == 0)
      fail(Code::kBadArgument, "calibration text {}: expected text, got none", calibration.name);
  }
  if (o.check) job.heldout = heldout_of(*load_tokenizer(*out->source));
  job.manifest_options = manifest_options(o);
  job.command = quantize_command(o, o.output);
  out->result = run_quantize(*out->source, job, progress);
  out->options = std::move(o);
  out->seconds = now_seconds() - start;
  return out;
}

// Writes the finished job again as `output`: what differs is what names the output. Nothing is computed
// again.
void publish(const Quantized& done, const std::string& output, int64_t shard_bytes, bool force) {
  const auto written = Checkpoint::open(done.options.output);
  const OutputPlan plan = output_plan(*done.source, done.result.plan, done.result.quantized.dtype);
  WriterOptions options;
  options.shard_bytes = shard_bytes;
  options.force = force;
  Manifest manifest = done.result.manifest;
  CardFacts card;
  card.name = public_name(output);
  card.base_model = manifest.source.name;
  card.license = done.source->license();
  card.bits_per_weight = done.result.plan.bits_per_weight;
  card.command = quantize_command(done.options, output);

  CheckpointWriter writer(output, plan, options);
  for (const OutputTensor& tensor : plan.tensors) {
    check_cancelled();
    writer.add(tensor.name, written->load(tensor.name, false));
  }
  writer.add_file("config.json", read_text_file(std::filesystem::path(done.options.output) / "config.json"));
  for (const auto& file : done.source->side_files()) writer.add_file(file.name, file.contents);
  manifest.files.clear();
  writer.add_file("README.md", model_card(card, manifest));
  writer.finish(std::move(manifest));
}

nb::dict summary(const Quantized& q) {
  const JobResult& r = q.result;
  nb::dict out;
  out["output"] = q.options.output;
  out["scheme"] = r.plan.scheme_text();
  out["group_size"] = r.plan.scheme.group;
  out["format"] = r.plan.format;
  out["dtype"] = r.quantized.dtype == DType::kF16 ? "float16" : "bfloat16";
  out["bits_per_weight"] = r.plan.bits_per_weight;
  out["bytes"] = r.output_bytes;
  out["source_bytes"] = r.plan.source_bytes;
  out["seconds"] = q.seconds;
  out["peak_rss_bytes"] = peak_rss_bytes();
  out["worst"] = r.worst;
  nb::dict samples;
  samples["automatic"] = q.samples.automatic;
  samples["used"] = q.samples.used;
  if (q.samples.automatic) {
    samples["available"] = q.samples.available;
    samples["converged"] = q.samples.converged;
  }
  out["samples"] = samples;
  if (const auto& c = r.quantized.check) {
    nb::dict check;
    check["tokens"] = c->tokens;
    check["kl"] = c->kl;
    check["kl_ci95"] = c->kl_ci95;
    check["top1_agreement"] = c->top1_agreement;
    check["perplexity_source"] = c->perplexity_source;
    check["perplexity"] = c->perplexity;
    out["check"] = check;
  } else {
    out["check"] = nb::none();
  }
  nb::list layers;
  for (const LayerReport& l : r.quantized.layers) {
    nb::dict row;
    row["block"] = l.block;
    row["module"] = l.module;
    row["relative_error"] = l.relative_error;
    row["group_loss"] = l.group_loss;
    row["group_awq_loss"] = l.group_awq_loss;
    row["chosen"] = l.chosen;
    layers.append(row);
  }
  out["layers"] = layers;
  return out;
}

Options options_from(const nb::dict& given) {
  Options o;
  take(given, "model", o.model);
  take(given, "output", o.output);
  take(given, "method", o.quantize.method);
  take(given, "quality", o.quantize.quality);
  take(given, "iterations", o.quantize.iterations);
  take(given, "bits", o.quantize.bits);
  take(given, "group_size", o.group);
  take(given, "symmetric", o.quantize.symmetric);
  take(given, "format", o.quantize.format);
  take(given, "dtype", o.quantize.dtype);
  take(given, "skip", o.quantize.skip);
  take(given, "calib", o.calib);
  take(given, "samples", o.samples);
  take(given, "seq_len", o.seq_len);
  take(given, "plan", o.plan);
  take(given, "check", o.check);
  take(given, "force", o.force);
  return o;
}

}  // namespace

void bind_quantize(nb::module_& m) {
  nb::class_<Quantized>(m, "Quantized")
      .def("summary", &summary)
      .def(
          "publish",
          [](const Quantized& q, const std::string& output, int64_t shard_bytes, bool force) {
            LongCall call;
            call.run([&] {
              publish(q, output, shard_bytes, force);
              return true;
            });
          },
          nb::arg("output"), nb::arg("shard_bytes") = kDefaultShardBytes, nb::arg("force") = false);
  m.attr("default_shard_bytes") = kDefaultShardBytes;
  m.attr("most_samples") = kMostSamples;
  m.def(
      "quantize",
      [](const nb::dict& given, const std::string& calib_name, const std::string& calib_sha256,
         std::vector<int32_t> ids, nb::object progress) {
        const Options options = options_from(given);
        Callback callback(std::move(progress));
        const ProgressFn report = progress_to(callback);
        LongCall call;
        try {
          return call.run([&] { return run(options, {calib_name, calib_sha256, std::move(ids)}, report); });
        } catch (const Error&) {
          callback.rethrow();
          throw;
        }
      },
      nb::arg("options"), nb::arg("calib_name"), nb::arg("calib_sha256"), nb::arg("calib_ids"),
      nb::arg("progress").none());
  m.def("plan", [](const nb::dict& given) {
    Options o = options_from(given);
    o.resolve_group();
    o.load_plan();
    const QuantizePlan plan = plan_quantize(*Checkpoint::open(resolve_model(o.model)), o.quantize, 0);
    nb::dict out;
    out["scheme"] = plan.scheme_text();
    out["group_size"] = plan.scheme.group;
    out["format"] = plan.format;
    out["bits_per_weight"] = plan.bits_per_weight;
    out["weight_bytes"] = plan.weight_bytes;
    out["source_bytes"] = plan.source_bytes;
    out["not_converted"] = plan.not_converted;
    return out;
  });
}

}  // namespace awq::python
