#include "cli/options.h"

#include <fmt/core.h>

#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <numeric>

#include "model/load_words.h"

namespace awq::cli {

CLI::App& add_command(CLI::App& app, Context& context, const CommandText& text, std::function<int()> run) {
  CLI::App& command = *app.add_subcommand(text.name, text.summary);
  command.footer(text.examples);  // HelpFormatter prints it first
  command.callback([&context, run = std::move(run)] { context.run = run; });
  add_common_options(command, context);
  return command;
}

void add_common_options(CLI::App& command, Context& context) {
  const char* group = kEverywhere;
  command.set_help_flag("-h,--help", "show this help")->group(group);
  command.add_flag("--json", context.json, "print the result as one JSON object")->group(group);
  command
      .add_option("--progress", context.progress,
                  "auto|plain|none: a bar on a terminal, lines every 10 s, or nothing")
      ->check(one_of({"auto", "plain", "none"}))
      ->type_name("MODE")
      ->group(group);
  auto* quiet = command.add_flag("-q,--quiet", context.quiet, "no progress, warnings only")->group(group);
  command.add_flag("-v,--verbose", context.verbose, "debug messages too")->excludes(quiet)->group(group);
  command
      .add_option("--threads", context.threads, "threads to use (default: the cores this process may use)")
      ->check(CLI::Range(1, 4096))
      ->type_name("N")
      ->group(group);
  command.add_option("--device", context.device, "auto|cpu|cuda")
      ->check(one_of(texts_of(kDeviceWords)))
      ->type_name("DEVICE")
      ->group(group);
}

void add_precision_options(CLI::App& command, std::string& precision, int& head_bits) {
  command
      .add_option("--precision", precision,
                  "fast|exact|bf16: activations of the linears in int8, fp32, bfloat16")
      ->check(one_of(texts_of(kPrecisionWords)))
      ->type_name("NAME")
      ->capture_default_str();
  command.add_option("--head-bits", head_bits, "output layer rounded to 8 or 4 bits; 0: as stored")
      ->check(CLI::IsMember(std::vector<int>(kHeadBits.begin(), kHeadBits.end())))
      ->type_name("N")
      ->capture_default_str();
}

void add_load_in_option(CLI::App& command, std::string& name) {
  command.add_option("--load-in", name, "nf4|rtn|int8: quantize dense linears while loading")
      ->check(one_of(texts_of(kLoadInWords)))
      ->type_name("NAME");
}

void add_invariant_option(CLI::App& command, bool& invariant) {
  command.add_flag("--invariant", invariant,
                   "the same bits for a text in any batch and however its prompt is cut: slower on a GPU; the CPU does so anyway");
}

CLI::Option* add_kv_dtype_option(CLI::App& command, std::string& name) {
  return command.add_option("--kv-dtype", name, "float16|bfloat16|float32|int8: keys and values of earlier tokens")
      ->check(one_of(texts_of(kKvDtypeWords)))
      ->type_name("NAME")
      ->capture_default_str();
}

void add_pack_cache_option(CLI::App& command, std::string& directory) {
  command
      .add_option("--pack-cache", directory, "keep prepared weights in this directory: the next start with the same model and options "
                  "maps them")
      ->type_name("DIR");
}

Device model_device(const Context& context) { return device_named(context.device); }

void check_runs_on_cpu(const Context& context, std::string_view command) {
  if (context.device == "cuda")
    fail(Code::kUnsupported, "--device cuda: awq {} runs on the CPU only in this version; use --device auto or cpu", command);
}

CLI::Validator one_of(std::vector<std::string> words) {
  CLI::Validator validator;
  validator.operation([words = std::move(words)](std::string& value) -> std::string {
    if (std::find(words.begin(), words.end(), value) != words.end()) return {};
    const std::string meant = nearest(value, words);
    const std::string known = std::accumulate(
        std::next(words.begin()), words.end(), words.front(),
        [](std::string all, const std::string& word) { return std::move(all) + ", " + word; });
    return fmt::format("'{}' is not one of {}{}", value, known,
                       meant.empty() ? "" : fmt::format("; did you mean {}?", meant));
  });
  return validator;
}

namespace {

// Optimal string alignment distance: insertions, deletions, substitutions and swaps of neighbours.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::vector<size_t>> d(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) d[i][0] = i;
  for (size_t j = 0; j <= b.size(); ++j) d[0][j] = j;
  for (size_t i = 1; i <= a.size(); ++i)
    for (size_t j = 1; j <= b.size(); ++j) {
      d[i][j] = std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
    }
  return d[a.size()][b.size()];
}

std::vector<std::string> option_names(const CLI::App& command) {
  std::vector<std::string> names;
  for (const CLI::Option* option : command.get_options()) {
    for (const auto& name : option->get_lnames()) names.push_back("--" + name);
    for (const auto& name : option->get_snames()) names.push_back("-" + name);
  }
  return names;
}

std::string did_you_mean(std::string_view word, const std::vector<std::string>& words) {
  const std::string meant = nearest(word, words);
  return meant.empty() ? "" : fmt::format(": did you mean {}?", meant);
}

}  // namespace

std::string nearest(std::string_view word, const std::vector<std::string>& words) {
  std::string best, begun;
  size_t least = std::max<size_t>(1, word.size() / 3) + 1, completions = 0;
  for (const auto& candidate : words) {
    const size_t distance = edit_distance(word, candidate);
    if (distance < least) least = distance, best = candidate;
    if (word.size() > 2 && candidate.starts_with(word)) ++completions, begun = candidate;
  }
  return completions == 1 ? begun : best;
}

std::string explain(const CLI::App& app, const CLI::ParseError& error) {
  const auto chosen = app.get_subcommands();  // those given on the command line
  const CLI::App& command = chosen.empty() ? app : *chosen.back();
  const std::string path = chosen.empty() ? "awq" : "awq " + command.get_name();
  // What was not understood comes first: a misspelt option also leaves its value to be taken for an argument.
  const auto leftovers = app.remaining(true);
  for (const std::string& word : leftovers)
    if (word.size() > 1 && word.front() == '-') {
      const std::string name = word.substr(0, word.find('='));
      return fmt::format("{} has no option '{}'{}", path, name, did_you_mean(name, option_names(command)));
    } else if (chosen.empty()) {
      std::vector<std::string> names;
      for (const CLI::App* other : app.get_subcommands([](const CLI::App*) { return true; }))
        names.push_back(other->get_name());
      return fmt::format("there is no command '{}'{}", word, did_you_mean(word, names));
    }
  if (!leftovers.empty()) return fmt::format("{} does not expect '{}'", path, leftovers.front());
  return fmt::format("{}: {}", path, error.what());
}

std::string whole_number_or_auto(const std::string& value) {
  if (value == "auto") return {};
  const bool digits =
      !value.empty() && value.size() < 10 && value.find_first_not_of("0123456789") == std::string::npos;
  return digits && value != "0" ? std::string{}
                                : fmt::format("'{}' is neither auto nor a positive number", value);
}

nlohmann::ordered_json json_number(double value) {
  return std::isfinite(value) ? nlohmann::ordered_json(value) : nlohmann::ordered_json(nullptr);
}

void print_json(const nlohmann::ordered_json& object) {
  print_line(object.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
}

void print_line(std::string_view line) { fmt::print("{}\n", line); }

}  // namespace awq::cli
