#include "cli/compare_view.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "base/system.h"
#include "base/version.h"
#include "cli/options.h"
#include "text/detokenizer.h"

namespace awq::cli {
namespace {

constexpr double kGiB = 1024.0 * 1024 * 1024;

std::string bytes_text(int64_t bytes) { return human_bytes(static_cast<double>(bytes)); }

// The answer with a mark before the first token that differs from the source's.
std::string marked(const CompareFacts& facts, const Answer& a) {
  if (a.first_difference < 0) return detokenized(facts.tokenizer, a.tokens);
  const std::span<const int32_t> all(a.tokens);
  const auto at = static_cast<size_t>(a.first_difference);
  return detokenized(facts.tokenizer, all.first(at)) + " \u25b6" + detokenized(facts.tokenizer, all.subspan(at));
}

std::string difference_text(const Answer& a) {
  return a.first_difference < 0 ? "same as the source"
                                : fmt::format("differs from token {} on", a.first_difference + 1);
}

// Mean over the linears of each block.
std::vector<double> per_block(const ContenderResult& r) {
  std::map<int64_t, std::pair<double, int>> sums;
  for (const LayerReport& l : r.layers)
    if (std::isfinite(l.relative_error)) sums[l.block].first += l.relative_error, ++sums[l.block].second;
  std::vector<double> out;
  for (const auto& [block, sum] : sums) {
    out.resize(static_cast<size_t>(block) + 1, NAN);
    out[static_cast<size_t>(block)] = sum.first / sum.second;
  }
  return out;
}

report::ScatterChart scatter(const Comparison& c, const CompareFacts& facts, size_t text) {
  report::ScatterChart chart{fmt::format("KL against size, {}", facts.text_names[text]),
                             "Distance from the source's predictions against the size of the weight files; "
                             "lower and further left is better.",
                             "GiB of weights",
                             "KL, nats per token (95 % interval)",
                             true,
                             {}};
  for (const ComparedRow& row : c.rows) {
    const Divergence& d = *row.texts[text].divergence;
    if (row.quantized.format == "none" || !(d.kl > 0)) continue;
    chart.points.push_back(
        {row.quantized.label, static_cast<double>(row.quantized.bytes) / kGiB, d.kl, d.kl_ci95});
  }
  return chart;
}

report::HeatMap errors(const Comparison& c) {
  report::HeatMap map{"Error of the linears, block by block",
                      "Energy of the change of a linear's output over the energy of the output, mean over "
                      "the linears of each block.",
                      "block",
                      {},
                      {},
                      {}};
  size_t blocks = 0;
  for (const ComparedRow& row : c.rows) blocks = std::max(blocks, per_block(row.quantized).size());
  for (size_t b = 0; b < blocks; ++b) map.columns.push_back(std::to_string(b));
  for (const ComparedRow& row : c.rows) {
    map.rows.push_back(row.quantized.label);
    map.values.push_back(per_block(row.quantized));
    map.values.back().resize(blocks, NAN);
  }
  return map;
}

report::HeatMap shift_map(const Comparison& c, const CompareFacts& facts, size_t text) {
  report::HeatMap map{fmt::format("Domain shift, {}", facts.text_names[text]),
                      "Share of the inputs' energy that lies in other channels than with the calibration text.",
                      "block",
                      {},
                      {},
                      {}};
  const auto& blocks = c.all.shifts[text + 1].sites;
  for (size_t b = 0; b < blocks.size(); ++b) map.columns.push_back(std::to_string(b));
  for (const Site site : {Site::kAttentionIn, Site::kAttentionOut, Site::kMlpIn, Site::kMlpDown}) {
    map.rows.push_back(site_name(site));
    map.values.emplace_back();
    for (const auto& block : blocks) map.values.back().push_back(block[static_cast<size_t>(site)]);
  }
  return map;
}

report::BarChart times(const Comparison& c) {
  report::BarChart chart{"Time of rounding", "Seconds each method took beyond the statistics all share.", {}};
  for (const ComparedRow& row : c.rows)
    chart.bars.push_back(
        {row.quantized.label, row.quantized.seconds, fmt::format("{:.1f} s", row.quantized.seconds)});
  return chart;
}

}  // namespace

report::Table compare_table(const Comparison& c, const CompareFacts& facts, size_t text) {
  report::Table table{facts.text_names[text],
                      {{"method"},
                       {"scheme"},
                       {"bits", true},
                       {"size", true},
                       {"perplexity", true},
                       {"KL", true},
                       {"median", true},
                       {"99 %", true},
                       {"max", true},
                       {"same token", true},
                       {"time", true},
                       {"memory", true},
                       {"prefill", true},
                       {"decode", true}},
                      {}};
  const size_t best = best_row(c, text);
  const double reference = c.rows.front().texts[text].divergence->reference_perplexity;
  const auto speeds = [](const Speed& s, bool decode) {
    const double v = decode ? s.decode_tokens_per_s : s.prefill_tokens_per_s;
    return v > 0 ? fmt::format("{:.0f}/s", v) : std::string("\u2013");
  };
  table.rows.push_back({"source", "\u2013", "\u2013", bytes_text(c.source_bytes),
                        fmt::format("{:.3f}", reference), "0", "0", "0", "0", "100 %", "\u2013", "\u2013",
                        speeds(c.source_speed, false), speeds(c.source_speed, true)});
  for (size_t i = 0; i < c.rows.size(); ++i) {
    const ComparedRow& row = c.rows[i];
    const Evaluation& e = row.texts[text];
    const Divergence& d = *e.divergence;
    const bool stored = row.quantized.format != "none";
    const char* mark = i == best ? "*" : tied(d, *c.rows[best].texts[text].divergence) ? "\u2248" : "";
    table.rows.push_back(
        {row.quantized.label, row.quantized.scheme, fmt::format("{:.2f}", row.quantized.bits_per_weight),
         stored ? bytes_text(row.quantized.bytes) : "\u2013",
         fmt::format("{:.3f} ±{:.2f}", e.perplexity, e.perplexity_ci95),
         fmt::format("{}{:.4f} ±{:.4f}", mark, d.kl, d.kl_ci95), fmt::format("{:.4f}", d.kl_median),
         fmt::format("{:.3f}", d.kl_p99), fmt::format("{:.2f}", d.kl_max),
         fmt::format("{:.2f} ±{:.2f} %", 100 * d.top1_agreement, 100 * d.top1_agreement_ci95),
         fmt::format("{:.1f} s", row.quantized.seconds), bytes_text(row.quantized.memory_bytes),
         speeds(row.speed, false), speeds(row.speed, true)});
  }
  return table;
}

std::string compare_page(const Comparison& c, const CompareFacts& facts) {
  report::Page page(fmt::format("{}: quantization methods compared", facts.model));
  page.paragraph(
      fmt::format("Calibrated on {} ({} tokens); statistics took {:.0f} s and serve every method. {}.",
                  facts.calibration, facts.calibration_tokens, c.all.statistics_seconds, facts.machine));
  if (facts.samples.automatic) page.paragraph("Calibrated with " + samples_text(facts.samples, facts.seq_len) + ".");
  page.code(facts.command);
  page.heading("Quality, size and speed")
      .paragraph(
          "KL is the mean over predictions of the divergence from the source, in nats, with its 95 % "
          "interval over windows of the text. * is the "
          "least, \u2248 what does not differ from it by more than chance. Time is that of rounding beyond "
          "the shared statistics, memory the "
          "planned peak of that method alone; prefill and decode are tokens per second of one sequence.");
  for (size_t t = 0; t < facts.text_names.size(); ++t) page.table(compare_table(c, facts, t));
  for (size_t t = 0; t < facts.text_names.size(); ++t) page.scatter_chart(scatter(c, facts, t));
  page.heading("Where the error is")
      .paragraph("Weights only: the rounding of activations is not in it.")
      .heat_map(errors(c));
  page.heading("How far the texts lie from the calibration text");
  for (size_t t = 0; t < facts.text_names.size(); ++t) page.paragraph(shift_text(c, facts, t)).heat_map(shift_map(c, facts, t));
  page.heading("Time").bar_chart(times(c));
  if (!facts.prompts.empty())
    page.heading("The same prompts, side by side")
        .paragraph("Greedy. \u25b6 stands before the first token that differs from the source's answer.");
  for (size_t i = 0; i < facts.prompts.size(); ++i) {
    std::vector<report::TextColumn> columns = {{"source", detokenized(facts.tokenizer, c.source_answers[i].tokens)}};
    for (const ComparedRow& row : c.rows)
      columns.push_back(
          {row.quantized.label + ": " + difference_text(row.answers[i]), marked(facts, row.answers[i])});
    page.code(facts.prompts[i]).columns(columns);
  }
  page.footer(fmt::format("Written by awq {}. This page loads nothing from anywhere.", kVersion));
  return page.html();
}

}  // namespace awq::cli
