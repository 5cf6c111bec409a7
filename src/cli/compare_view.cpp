#include "cli/compare_view.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "base/system.h"
#include "base/version.h"
#include "cli/options.h"
#include "text/detokenizer.h"

namespace awq::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kGiB = 1024.0 * 1024 * 1024;

std::string bytes_text(int64_t bytes) { return human_bytes(static_cast<double>(bytes)); }

size_t best_row(const Comparison& c, size_t text) {
  size_t best = 0;
  for (size_t i = 1; i < c.rows.size(); ++i)
    if (c.rows[i].texts[text].divergence->kl < c.rows[best].texts[text].divergence->kl) best = i;
  return best;
}

Json speed_json(const Speed& s) {
  return {{"prefill_tokens_per_s", s.prefill_tokens_per_s}, {"decode_tokens_per_s", s.decode_tokens_per_s}};
}

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

Json compare_json(const Comparison& c, const CompareFacts& facts) {
  Json rows = Json::array();
  for (size_t i = 0; i < c.rows.size(); ++i) {
    const ComparedRow& row = c.rows[i];
    Json texts = Json::array();
    for (size_t t = 0; t < row.texts.size(); ++t) {
      const Evaluation& e = row.texts[t];
      const Divergence& d = *e.divergence;
      const size_t best = best_row(c, t);
      texts.push_back({{"text", facts.text_names[t]},
                       {"windows", e.windows},
                       {"targets", e.targets},
                       {"perplexity", e.perplexity},
                       {"perplexity_ci95", e.perplexity_ci95},
                       {"reference_perplexity", d.reference_perplexity},
                       {"kl", d.kl},
                       {"kl_ci95", d.kl_ci95},
                       {"kl_median", d.kl_median},
                       {"kl_p99", d.kl_p99},
                       {"kl_max", d.kl_max},
                       {"top1_agreement", d.top1_agreement},
                       {"top1_agreement_ci95", d.top1_agreement_ci95},
                       {"best", i == best},
                       {"tied_with_best", i == best || tied(d, *c.rows[best].texts[t].divergence)}});
    }
    Json layers = Json::array();
    for (const LayerReport& l : row.quantized.layers)
      layers.push_back(
          {{"module", l.module}, {"relative_error", json_number(l.relative_error)}, {"chosen", l.chosen}});
    Json answers = Json::array();
    for (const Answer& a : row.answers)
      answers.push_back(
          {{"text", detokenized(facts.tokenizer, a.tokens)},
           {"tokens", a.tokens.size()},
           {"first_difference", a.first_difference < 0 ? Json(nullptr) : Json(a.first_difference)}});
    const ContenderResult& q = row.quantized;
    Json json = {{"label", q.label},
                 {"method", q.method},
                 {"scheme", q.scheme},
                 {"format", q.format},
                 {"bits_per_weight", q.bits_per_weight},
                 {"bytes", q.format == "none" ? Json(nullptr) : Json(q.bytes)},
                 {"seconds", q.seconds},
                 {"memory_bytes", q.memory_bytes}};
    json.update(speed_json(row.speed));
    json["texts"] = std::move(texts);
    json["answers"] = std::move(answers);
    json["layers"] = std::move(layers);
    rows.push_back(std::move(json));
  }
  Json prompts = Json::array();
  for (size_t i = 0; i < facts.prompts.size(); ++i)
    prompts.push_back({{"prompt", facts.prompts[i]}, {"source", detokenized(facts.tokenizer, c.source_answers[i].tokens)}});
  Json source = {{"model", facts.model}, {"bytes", c.source_bytes}};
  source.update(speed_json(c.source_speed));
  return {{"schema", "awq.compare/1"},
          {"source", std::move(source)},
          {"calibration", facts.calibration},
          {"calibration_tokens", facts.calibration_tokens},
          {"dtype", c.all.dtype == DType::kF16 ? "float16" : "bfloat16"},
          {"statistics_seconds", c.all.statistics_seconds},
          {"seconds", facts.seconds},
          {"peak_rss_bytes", peak_rss_bytes()},
          {"machine", facts.machine},
          {"methods", std::move(rows)},
          {"prompts", std::move(prompts)}};
}

std::string compare_page(const Comparison& c, const CompareFacts& facts) {
  report::Page page(fmt::format("{}: quantization methods compared", facts.model));
  page.paragraph(
      fmt::format("Calibrated on {} ({} tokens); statistics took {:.0f} s and serve every method. {}.",
                  facts.calibration, facts.calibration_tokens, c.all.statistics_seconds, facts.machine));
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
