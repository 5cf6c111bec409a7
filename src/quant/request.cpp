#include "quant/request.h"

#include <nlohmann/json.hpp>

#include "base/log.h"
#include "checkpoint/manifest.h"

namespace awq {

void QuantizeRequest::resolve_group() {
  if (group != "auto") quantize.group = std::stoi(group);
}

void QuantizeRequest::load_plan() {
  if (!plan.empty()) quantize.mixed = read_mixed_plan(plan);
}

SampleChoice calibration_sequences(const Checkpoint& checkpoint, const QuantizeRequest& r, const QuantizeOptions& options,
                                   std::span<const int32_t> stream, const ProgressFn& progress) {
  constexpr int64_t kUnmeasured = 128;
  if (r.auto_samples() && !r.cuda) {
    SampleChoice out = choose_samples(checkpoint, options, stream, r.seq_len, Precision::kBf16, progress);
    log(Level::kInfo, "calibrating with {}", samples_text(out, r.seq_len));
    return out;
  }
  SampleChoice out;
  out.sequences = cut_sequences(stream, r.seq_len, r.auto_samples() ? kUnmeasured : r.sample_count());
  out.used = out.sequences.count();
  return out;
}

std::vector<std::pair<std::string, std::string>> manifest_options(const QuantizeRequest& r) {
  const QuantizeOptions& q = r.quantize;
  std::vector<std::pair<std::string, std::string>> out = {{"method", q.method},
                                                          {"quality", q.quality},
                                                          {"bits", std::to_string(q.mixed ? q.mixed->base.bits : planned_bits(q))},
                                                          {"group_size", q.mixed ? std::to_string(q.mixed->base.group) : r.group},
                                                          {"sym", q.symmetric ? "true" : "false"},
                                                          {"format", q.format},
                                                          {"dtype", q.dtype},
                                                          {"samples", r.samples},
                                                          {"seq_len", std::to_string(r.seq_len)}};
  if (q.quality == "max") out.emplace_back("iterations", std::to_string(q.iterations));
  if (q.mixed) out.emplace_back("plan", mixed_plan_json(*q.mixed)["units"].dump());
  for (const std::string& name : q.skip) out.emplace_back("skip", name);
  if (r.cuda) out.emplace_back("device", "cuda");
  return out;
}

std::string quantize_command(const QuantizeRequest& r, const std::string& output) {
  const QuantizeOptions& q = r.quantize;
  std::vector<std::string> argv = {"awq",       "quantize", r.model,  "-o",
                                   output,      "--method", q.method, "--quality",
                                   q.quality};
  if (q.quality == "max") argv.insert(argv.end(), {"--iterations", std::to_string(q.iterations)});
  if (q.mixed)
    argv.insert(argv.end(), {"--plan", r.plan});
  else
    argv.insert(argv.end(), {"--bits", std::to_string(planned_bits(q)), "--group-size", r.group});
  if (q.symmetric) argv.emplace_back("--sym");
  if (q.format != "auto") argv.insert(argv.end(), {"--format", q.format});
  if (q.dtype != "auto") argv.insert(argv.end(), {"--dtype", q.dtype});
  argv.insert(argv.end(), {"--calib", r.calib, "--samples", r.samples, "--seq-len", std::to_string(r.seq_len)});
  for (const std::string& name : q.skip) argv.insert(argv.end(), {"--skip", name});
  if (r.cuda) argv.insert(argv.end(), {"--device", "cuda"});
  return public_command(argv);
}

}  // namespace awq
