// awq verify: whether a checkpoint is whole, and whether a serving system would take it by its known rules.
#include <fmt/core.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "checkpoint/hub_cache.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "base/printable.h"
#include "model/verify.h"

namespace awq::cli {
namespace {

using Json = nlohmann::ordered_json;
using Severity = Finding::Severity;

// Said wherever rules of another program were applied.
constexpr const char* kRuleCheck = "rule check, not run";

const char* severity_name(Severity severity) { return severity == Severity::kError ? "error" : "note"; }

std::string line_of(const Finding& f) {
  std::string where = printable(f.file);  // names come from files
  if (!f.tensor.empty()) where += (where.empty() ? "" : ": ") + printable(f.tensor);
  return fmt::format("{:<5}  {:<16} {}{}{}", severity_name(f.severity), f.rule, where,
                     where.empty() ? "" : ": ", f.text);
}

void print_as_json(const std::string& path, bool ok, const std::vector<Finding>& findings,
                   std::optional<ServingSystem> system) {
  Json json = {{"schema", "awq.verify/1"}, {"path", path}, {"ok", ok}, {"target", nullptr}};
  if (system) {
    json["target"] = {
        {"system", serving_system_name(*system)}, {"basis", kRuleCheck}, {"rules", Json::array()}};
    for (const ServingRule& rule : serving_rules(*system))
      json["target"]["rules"].push_back({{"rule", rule.id}, {"demand", rule.demand}});
  }
  json["findings"] = Json::array();
  for (const Finding& f : findings)
    json["findings"].push_back({{"severity", severity_name(f.severity)},
                                {"rule", f.rule},
                                {"file", f.file},
                                {"tensor", f.tensor},
                                {"text", f.text}});
  print_json(json);
}

int run(const std::string& path, const std::string& target, const Context& context) {
  const std::optional<ServingSystem> system = serving_system(target);
  const std::vector<Finding> findings = verify_checkpoint(resolve_model(path), system);
  const auto errors = std::count_if(findings.begin(), findings.end(),
                                    [](const Finding& f) { return f.severity == Severity::kError; });
  if (context.json) {
    print_as_json(path, errors == 0, findings, system);
    return errors == 0 ? 0 : 1;
  }
  for (const Finding& f : findings) print_line(line_of(f));
  print_line(errors == 0 ? fmt::format("{}: no error", path)
                         : fmt::format("{}: {} error{}", path, errors, errors == 1 ? "" : "s"));
  if (system)
    print_line(fmt::format("{}: {} ({} rules)", serving_system_name(*system), kRuleCheck,
                           serving_rules(*system).size()));
  return errors == 0 ? 0 : 1;
}

}  // namespace

void add_verify(CLI::App& app, Context& context) {
  struct Options {
    std::string path, target;
  };
  const auto options = std::make_shared<Options>();
  auto& command = add_command(app, context,
                              {"verify", "Check that a checkpoint is whole and well formed",
                               "awq verify ./qwen-awq\nawq verify ./qwen-awq --target vllm --json"},
                              [options, &context] { return run(options->path, options->target, context); });
  command.add_option("PATH", options->path, "folder, .gguf file or org/name")->required();
  command
      .add_option("--target", options->target,
                  "a serving system's rules too: vllm, sglang, tgi or transformers")
      ->check(one_of({"vllm", "sglang", "tgi", "transformers"}));
}

}  // namespace awq::cli
