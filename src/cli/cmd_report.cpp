// awq report: what quantize, eval and generate found, side by side: in short on standard output, in full as
// one self-contained HTML page.
#include <fmt/core.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/system.h"
#include "base/version.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/results.h"
#include "cli/text_layout.h"
#include "report/html.h"

namespace awq::cli {
namespace {

constexpr size_t kWorst = 12;  // linears shown in the bar chart
constexpr size_t kLines = 10;  // of each generation, on a terminal

struct Options {
  std::string title = "Quantization report", output;
  std::vector<std::string> sections;  // NAME=FILE
};

void add_methods(report::Page& page, const std::vector<Variant>& variants) {
  report::Table table = methods_table(variants);
  table.caption = "± is half the width of the 95 % interval";
  page.heading("Size and quality").table(table);
  page.paragraph(
      "Perplexity is the exponential of the mean negative log-likelihood per token. KL (nats per token) and "
      "the share of positions "
      "with the same most likely next token compare each prediction with the source model's. Lower is better "
      "for perplexity and KL.");
  if (const auto tokens = evaluated_tokens(variants))
    page.paragraph(fmt::format("Measured on {:.0f} tokens.", *tokens));
}

// The block a linear belongs to: the first number in its dotted name ("model.layers.12.mlp.up_proj"), -1 if
// none.
int block_of(const std::string& module) {
  for (size_t at = 0; at < module.size();) {
    const size_t end = std::min(module.find('.', at), module.size());
    const std::string part = module.substr(at, end - at);
    if (!part.empty() && part.size() < 6 && part.find_first_not_of("0123456789") == std::string::npos)
      return std::stoi(part);
    at = end + 1;
  }
  return -1;
}

report::LineChart::Series per_block(const std::string& name, const std::vector<LayerError>& errors) {
  std::map<int, std::pair<double, int>> blocks;  // sum of errors, count
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

void add_worst(report::Page& page, const std::string& name, std::vector<LayerError> errors) {
  std::stable_sort(errors.begin(), errors.end(),
                   [](const auto& a, const auto& b) { return a.error > b.error; });
  const auto percent = [](double error) { return fmt::format("{:.3f} %", 100 * error); };
  report::BarChart chart{fmt::format("{}: linears with the largest error", name),
                         fmt::format("Bars, largest first; the largest is {} with {}.", errors.front().module,
                                     percent(errors.front().error)),
                         {}};
  for (size_t i = 0; i < std::min(kWorst, errors.size()); ++i)
    chart.bars.push_back({errors[i].module, errors[i].error, percent(errors[i].error)});
  page.bar_chart(chart);
  report::Table all{"", {{"linear"}, {"relative error", true}}, {}};
  for (const LayerError& e : errors) all.rows.push_back({e.module, percent(e.error)});
  page.begin_details(fmt::format("{}: all {} linears", name, errors.size())).table(all).end_details();
}

void add_errors(report::Page& page, const std::vector<Variant>& variants) {
  report::LineChart blocks{"Mean error of each block's linears",
                           "One line per method over the model's blocks, first to last.",
                           "block",
                           "relative error",
                           true,
                           {}};
  for (const Variant& v : variants)
    if (const auto errors = layer_errors(v); !errors.empty())
      blocks.series.push_back(per_block(v.name, errors));
  if (blocks.series.empty()) return;
  page.heading("Error of each linear")
      .paragraph(
          "Energy of the change of a linear's output over the energy of the output, on the calibration data.")
      .line_chart(blocks);
  for (const Variant& v : variants)
    if (auto errors = layer_errors(v); !errors.empty()) add_worst(page, v.name, std::move(errors));
}

void add_generations(report::Page& page, const std::vector<Variant>& variants) {
  const auto all = generations(variants);
  if (!all.empty()) page.heading("The same prompts, side by side");
  for (const Generations& g : all) page.code(g.prompt).columns(g.columns);
}

std::string page_of(const std::string& title, const std::vector<Variant>& variants) {
  report::Page page(title);
  add_methods(page, variants);
  add_errors(page, variants);
  add_generations(page, variants);
  page.footer(fmt::format("Written by awq {}. This page loads nothing from anywhere.", kVersion));
  return page.html();
}

size_t terminal_width() {
  winsize size{};
  return ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col >= 60 ? size.ws_col : 120;
}

void print_summary(const std::vector<Variant>& variants) {
  print_line(text_table(methods_table(variants)));
  for (const Generations& g : generations(variants))
    print_line(fmt::format("\n> {}\n\n{}", g.prompt, text_columns(g.columns, terminal_width(), kLines)));
}

int run(const Context& context, const Options& options) {
  const auto variants = read_variants(options.sections);
  const std::string html = page_of(options.title, variants);
  write_file_atomic(options.output, html);
  if (context.json) {
    print_json({{"schema", "awq.report/1"},
                {"output", options.output},
                {"bytes", html.size()},
                {"variants", variants.size()}});
    return 0;
  }
  print_summary(variants);
  print_line(fmt::format("\nwrote  {}   {}", options.output, human_bytes(static_cast<double>(html.size()))));
  return 0;
}

}  // namespace

void add_report(CLI::App& app, Context& context) {
  auto options = std::make_shared<Options>();
  auto& command = add_command(app, context,
                              {"report", "Compare results: a summary here, an HTML page in full",
                               "awq report --section awq=quantize.json --section awq=kl.json -o r.html\n"
                               "awq report --title qwen --section rtn=rtn.json -o report.html"},
                              [&context, options] { return run(context, *options); });
  command
      .add_option("--section", options->sections,
                  "a result of quantize, eval or generate printed with --json; use the same NAME for all "
                  "results of one "
                  "model")
      ->type_name("NAME=FILE")
      ->required()
      ->allow_extra_args(false);
  command.add_option("--title", options->title, "heading of the page")->type_name("TEXT");
  command.add_option("-o,--output", options->output, "the page to write")->type_name("FILE")->required();
}

}  // namespace awq::cli
