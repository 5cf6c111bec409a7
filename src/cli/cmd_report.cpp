// awq report: one self-contained HTML page from the --json results of quantize, eval and generate.
#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>

#include "base/error.h"
#include "base/system.h"
#include "base/version.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "report/html.h"

namespace awq::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kWorst = 12;  // linears shown in the bar chart

struct Options {
  std::string title = "Quantization report", output;
  std::vector<std::string> sections;  // NAME=FILE
};

// What is known about one variant of the model: the results given under one name.
struct Variant {
  std::string name;
  Json quantize, perplexity, kl;  // null when not given
  std::vector<Json> generations;
};

Json read_result(const std::string& path) {
  const std::string text = read_text_file(path);
  Json json = Json::parse(text, nullptr, false);
  if (!json.is_object() || !json.contains("schema") || !json["schema"].is_string())
    fail(Code::kBadFile, "{}: expected a JSON object with \"schema\", as awq prints with --json", path);
  return json;
}

void add_result(Variant& variant, Json json, const std::string& path) {
  const auto schema = json["schema"].get<std::string>();
  if (schema == "awq.quantize/1") {
    variant.quantize = std::move(json);
  } else if (schema == "awq.generate/1") {
    variant.generations.push_back(std::move(json));
  } else if (schema == "awq.eval/1" && json.value("task", "") == "ppl") {
    variant.perplexity = std::move(json);
  } else if (schema == "awq.eval/1" && json.value("task", "") == "kl") {
    variant.kl = std::move(json);
  } else {
    fail(Code::kBadFile, "{}: expected a result of quantize, eval --task ppl|kl or generate, got {}", path,
         schema);
  }
}

// In the order in which the names first appear.
std::vector<Variant> read_variants(const std::vector<std::string>& sections) {
  std::vector<Variant> variants;
  for (const std::string& section : sections) {
    const size_t equals = section.find('=');
    if (equals == 0 || equals == std::string::npos || equals + 1 == section.size())
      fail(Code::kBadArgument, "--section '{}': expected NAME=FILE", section);
    const std::string name = section.substr(0, equals), path = section.substr(equals + 1);
    auto at =
        std::find_if(variants.begin(), variants.end(), [&](const Variant& v) { return v.name == name; });
    if (at == variants.end()) at = variants.insert(variants.end(), Variant{name, {}, {}, {}, {}});
    add_result(*at, read_result(path), path);
  }
  return variants;
}

std::optional<double> number(const Json& json, const char* key) {
  if (!json.is_object() || !json.contains(key) || !json[key].is_number()) return std::nullopt;
  return json[key].get<double>();
}

std::string text(const Json& json, const char* key) {
  return json.is_object() && json.contains(key) && json[key].is_string() ? json[key].get<std::string>() : "";
}

// The number, with the half width of its 95 % interval where the result has one; an en dash where there is
// none.
std::string cell(const Json& json, const char* key, int digits) {
  const auto value = number(json, key), error = number(json, "stderr");
  if (!value) return "–";
  std::string out = fmt::format("{:.{}f}", *value, digits);
  if (error && *error > 0) out += fmt::format(" ±{:.{}f}", 1.96 * *error, digits);
  return out;
}

std::string bytes_cell(const std::optional<double>& bytes) { return bytes ? human_bytes(*bytes) : "–"; }

// The source's size stands in what quantize says of any variant made from it.
std::optional<double> size_of(const Variant& variant, const std::vector<Variant>& all) {
  if (variant.quantize.is_object()) return number(variant.quantize, "bytes");
  for (const Variant& other : all)
    if (const auto bytes = number(other.quantize, "source_bytes")) return bytes;
  return std::nullopt;
}

void add_methods(report::Page& page, const std::vector<Variant>& variants) {
  report::Table table{
      "± is half the 95 % interval. KL and same next token compare each position's prediction with the "
      "source model's.",
      {{"model"},
       {"size", true},
       {"bits per weight", true},
       {"perplexity", true},
       {"KL (nats per token)", true},
       {"same next token", true},
       {"made in", true},
       {"peak memory", true}},
      {}};
  for (const Variant& v : variants) {
    const auto bits = number(v.quantize, "bits_per_weight"), agree = number(v.kl, "top1_agreement");
    const auto seconds = number(v.quantize, "seconds");
    table.rows.push_back({v.name, bytes_cell(size_of(v, variants)), bits ? fmt::format("{:.2f}", *bits) : "–",
                          cell(v.perplexity, "perplexity", 3), cell(v.kl, "kl", 4),
                          agree ? fmt::format("{:.1f} %", 100 * *agree) : "–",
                          seconds ? human_seconds(*seconds) : "–",
                          bytes_cell(number(v.quantize, "peak_rss_bytes"))});
  }
  page.heading("Size and quality").table(table);
  for (const Variant& v : variants)
    if (const auto tokens = number(v.perplexity, "tokens")) {
      page.paragraph(
          fmt::format("Measured on {:.0f} tokens that calibration has not seen. Perplexity is the "
                      "exponential of the mean "
                      "negative log-likelihood per token; lower is better for it and for KL.",
                      *tokens));
      break;
    }
}

struct LayerError {
  std::string module;
  double error;
};

std::vector<LayerError> layer_errors(const Json& quantize) {
  std::vector<LayerError> errors;
  if (!quantize.is_object() || !quantize.contains("layers") || !quantize["layers"].is_array()) return errors;
  for (const Json& layer : quantize["layers"])
    if (const auto error = number(layer, "relative_error"); error && std::isfinite(*error) && *error >= 0)
      errors.push_back({text(layer, "module"), *error});
  return errors;
}

// The block a linear belongs to: the first number in its dotted name ("model.layers.12.mlp.up_proj"), -1 if
// none.
int block_of(const std::string& module) {
  for (size_t at = 0; at < module.size(); at = module.find('.', at) + 1) {
    const size_t end = std::min(module.find('.', at), module.size());
    const std::string part = module.substr(at, end - at);
    if (!part.empty() && part.size() < 6 && part.find_first_not_of("0123456789") == std::string::npos)
      return std::stoi(part);
    if (end == module.size()) break;
  }
  return -1;
}

report::LineChart::Series per_block(const std::string& name, const std::vector<LayerError>& errors) {
  std::map<int, std::pair<double, int>> blocks;  // sum, count
  for (const LayerError& layer : errors)
    if (const int block = block_of(layer.module); block >= 0) {
      blocks[block].first += layer.error;
      ++blocks[block].second;
    }
  report::LineChart::Series series{name, {}};
  for (const auto& [block, sum] : blocks)
    series.points.push_back({static_cast<double>(block), sum.first / sum.second});
  return series;
}

void add_worst(report::Page& page, const Variant& variant, std::vector<LayerError> errors) {
  std::stable_sort(errors.begin(), errors.end(),
                   [](const auto& a, const auto& b) { return a.error > b.error; });
  const auto bar = [](const LayerError& e) {
    return report::BarChart::Bar{e.module, e.error, fmt::format("{:.3f} %", 100 * e.error)};
  };
  report::BarChart chart{fmt::format("{}: linears with the largest error", variant.name),
                         fmt::format("Horizontal bars, largest first; the largest is {} with {:.3f} percent.",
                                     errors.front().module, 100 * errors.front().error),
                         {}};
  for (size_t i = 0; i < std::min(kWorst, errors.size()); ++i) chart.bars.push_back(bar(errors[i]));
  page.bar_chart(chart);
  report::Table all{"", {{"linear"}, {"relative error", true}}, {}};
  for (const LayerError& e : errors) all.rows.push_back({e.module, bar(e).text});
  page.begin_details(fmt::format("{}: all {} linears", variant.name, errors.size())).table(all).end_details();
}

void add_errors(report::Page& page, const std::vector<Variant>& variants) {
  report::LineChart blocks{"Mean error of each block's linears",
                           "One line per method over the model's blocks, first to last.",
                           "block",
                           "relative error",
                           true,
                           {}};
  for (const Variant& v : variants)
    if (const auto errors = layer_errors(v.quantize); !errors.empty())
      blocks.series.push_back(per_block(v.name, errors));
  if (blocks.series.empty()) return;
  page.heading("Error of each linear")
      .paragraph(
          "Energy of the change of a linear's output over the energy of the output, on the calibration data.")
      .line_chart(blocks);
  for (const Variant& v : variants)
    if (auto errors = layer_errors(v.quantize); !errors.empty()) add_worst(page, v, std::move(errors));
}

void add_generations(report::Page& page, const std::vector<Variant>& variants) {
  std::vector<std::string> prompts;
  for (const Variant& v : variants)
    for (const Json& g : v.generations)
      if (const std::string prompt = text(g, "prompt");
          std::find(prompts.begin(), prompts.end(), prompt) == prompts.end())
        prompts.push_back(prompt);
  if (prompts.empty()) return;
  page.heading("The same prompts, side by side");
  for (const std::string& prompt : prompts) {
    std::vector<report::TextColumn> columns;
    for (const Variant& v : variants)
      for (const Json& g : v.generations)
        if (text(g, "prompt") == prompt) {
          const auto rate = number(g, "tokens_per_s");
          columns.push_back(
              {rate ? fmt::format("{} · {:.1f} tokens/s", v.name, *rate) : v.name, text(g, "text")});
        }
    page.code(prompt).columns(columns);
  }
}

int run(const Context& context, const Options& options) {
  const auto variants = read_variants(options.sections);
  report::Page page(options.title);
  add_methods(page, variants);
  add_errors(page, variants);
  add_generations(page, variants);
  page.footer(fmt::format("Written by awq {}. This page loads nothing from anywhere.", kVersion));
  const std::string html = page.html();
  write_file_atomic(options.output, html);
  if (context.json)
    print_json({{"schema", "awq.report/1"},
                {"output", options.output},
                {"bytes", html.size()},
                {"variants", variants.size()}});
  else
    print_line(fmt::format("wrote  {}   {}", options.output, human_bytes(static_cast<double>(html.size()))));
  return 0;
}

}  // namespace

void add_report(CLI::App& app, Context& context) {
  auto options = std::make_shared<Options>();
  auto& command = add_command(app, context,
                              {"report", "Write an HTML page from results of quantize, eval, generate",
                               "awq report --section awq=quantize.json --section awq=kl.json -o r.html\n"
                               "awq report --title qwen --section rtn=rtn.json -o report.html"},
                              [&context, options] { return run(context, *options); });
  command
      .add_option("--section", options->sections,
                  "a result printed with --json, shown under NAME; use the same NAME for all "
                  "results of one model")
      ->type_name("NAME=FILE")
      ->required()
      ->allow_extra_args(false);
  command.add_option("--title", options->title, "heading of the page")->type_name("TEXT");
  command.add_option("-o,--output", options->output, "the page to write")->type_name("FILE")->required();
}

}  // namespace awq::cli
