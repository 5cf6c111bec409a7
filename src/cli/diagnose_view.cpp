#include "cli/diagnose_view.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>

#include "base/system.h"
#include "cli/options.h"
#include "eval/quantile.h"
#include "text/detokenizer.h"

namespace awq::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kWorstTokens = 30, kContext = 24;

std::string text_of(double v, const char* form = "{:.4f}") { return std::isfinite(v) ? fmt::format(fmt::runtime(form), v) : "\u2013"; }
std::string percent(double v) { return std::isfinite(v) ? fmt::format("{:.3g} %", 100 * v) : "\u2013"; }

template <class T, class Key>
std::vector<size_t> largest_first(const std::vector<T>& items, const Key& key) {
  std::vector<size_t> order(items.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    const double x = key(items[a]), y = key(items[b]);
    return (std::isfinite(x) ? x : -1) > (std::isfinite(y) ? y : -1);
  });
  return order;
}

std::vector<size_t> by_kl(const Diagnosis& d) {
  return largest_first(d.units, [](const UnitDiagnosis& u) { return u.kl; });
}

bool of_given(const Diagnosis& d) {
  return std::any_of(d.linears.begin(), d.linears.end(), [](const LinearDiagnosis& l) { return std::isfinite(l.expected_error); });
}

double excess(const LinearDiagnosis& l) { return l.expected_error > 0 ? l.relative_error / l.expected_error : NAN; }

std::vector<size_t> by_error(const Diagnosis& d) {
  const bool given = of_given(d);
  return largest_first(d.linears, [given](const LinearDiagnosis& l) { return given ? excess(l) : l.relative_error; });
}

std::vector<size_t> worst_tokens(const Diagnosis& d) {
  auto order = largest_first(d.tokens, [](const TokenDiagnosis& t) { return t.loss.kl; });
  order.resize(std::min(order.size(), kWorstTokens));
  return order;
}

struct TokenContext {
  std::string before, token;
};

TokenContext context_of(const DiagnoseFacts& facts, const TokenDiagnosis& t) {
  int64_t start = 0;
  for (int64_t s = 0; s < t.sequence; ++s) start += facts.measured->lengths[s];
  const std::span<const int32_t> ids(facts.measured->ids);
  const int64_t from = std::max<int64_t>(0, t.position - static_cast<int64_t>(kContext));
  return {detokenized(facts.tokenizer, ids.subspan(start + from, t.position - from)), detokenized(facts.tokenizer, ids.subspan(start + t.position, 1))};
}

// One line, so that a table stays one.
std::string one_line(std::string text) {
  for (char& c : text)
    if (c == '\n' || c == '\r' || c == '\t') c = ' ';
  return text;
}

const char* site_text(Site site) {
  switch (site) {
    case Site::kAttentionIn:
      return "attention in";
    case Site::kAttentionOut:
      return "attention out";
    case Site::kMlpIn:
      return "MLP in";
    case Site::kMlpDown:
      return "MLP down";
  }
  return "";
}

std::vector<double> token_kl(const Diagnosis& d) {
  std::vector<double> out;
  for (const TokenDiagnosis& t : d.tokens) out.push_back(t.loss.kl);
  return out;
}

report::HeatMap heat_map(const Diagnosis& d) {
  report::HeatMap map{"KL when one part alone is quantized", "Nats per token, block by block; darker parts cost more.", "block", {}, {}, {}};
  for (size_t b = 0; b < d.depth.size(); ++b) map.columns.push_back(std::to_string(b));
  for (const Site site : {Site::kAttentionIn, Site::kAttentionOut, Site::kMlpIn, Site::kMlpDown}) {
    map.rows.emplace_back(site_text(site));
    map.values.emplace_back(d.depth.size(), NAN);
    for (const UnitDiagnosis& u : d.units)
      if (u.unit.site == site) map.values.back()[static_cast<size_t>(u.unit.block)] = u.kl;
  }
  return map;
}

report::HeatMap error_map(const Diagnosis& d) {
  report::HeatMap map{"Error of each linear", "Energy of the change of its output over the energy of the output.", "block", {}, {}, {}};
  for (size_t b = 0; b < d.depth.size(); ++b) map.columns.push_back(std::to_string(b));
  for (const LinearDiagnosis& l : d.linears) {
    auto row = std::find(map.rows.begin(), map.rows.end(), l.role);
    if (row == map.rows.end()) {
      row = map.rows.insert(map.rows.end(), l.role);
      map.values.emplace_back(d.depth.size(), NAN);
    }
    map.values[static_cast<size_t>(row - map.rows.begin())][static_cast<size_t>(l.block)] = l.relative_error;
  }
  return map;
}

template <class Value>
report::LineChart::Series depth_series(const Diagnosis& d, const char* name, const Value& value) {
  report::LineChart::Series s{name, {}};
  for (size_t b = 0; b < d.depth.size(); ++b) s.points.push_back({static_cast<double>(b), value(d.depth[b])});
  return s;
}

report::LineChart kl_along(const Diagnosis& d) {
  return {"KL along the depth",
          "How far the predictions move when one block alone, or all blocks up to it, are quantized.",
          "block",
          "KL, nats per token",
          true,
          {depth_series(d, "all up to this block", [](const DepthDiagnosis& x) { return x.kl_along; }),
           depth_series(d, "this block alone", [](const DepthDiagnosis& x) { return x.kl_alone; })}};
}

report::LineChart change_along(const Diagnosis& d) {
  return {"Change of the states along the depth",
          "Mean over tokens of the squared change over the squared state, after each block.",
          "block",
          "relative change",
          true,
          {depth_series(d, "with quantized inputs", [](const DepthDiagnosis& x) { return x.change_along; }),
           depth_series(d, "with the source's inputs", [](const DepthDiagnosis& x) { return x.change_alone; })}};
}

report::BarChart token_bars(const Diagnosis& d) {
  const std::vector<double> kl = token_kl(d);
  report::BarChart chart{"KL of single tokens", "The spread of the divergence over the tokens measured, in nats.", {}};
  const auto add = [&](const char* name, double v) { chart.bars.push_back({name, v, text_of(v)}); };
  add("median", quantile(kl, 0.5));
  add("mean", d.total.kl);
  add("90 %", quantile(kl, 0.9));
  add("99 %", quantile(kl, 0.99));
  add("99.9 %", quantile(kl, 0.999));
  add("max", quantile(kl, 1));
  return chart;
}

report::Table outliers_table(const Diagnosis& d, size_t rows) {
  report::Table table{"Inputs with the loudest channels", {{"part"}, {"loudest / median channel", true}, {"largest |input|", true}, {"error", true}, {"KL", true}}, {}};
  const auto order = largest_first(d.units, [](const UnitDiagnosis& u) { return u.outlier; });
  for (size_t k = 0; k < std::min(rows, order.size()); ++k) {
    const UnitDiagnosis& u = d.units[order[k]];
    table.rows.push_back({u.unit.name, text_of(u.outlier, "{:.1f}"), text_of(u.channel_max, "{:.1f}"), percent(u.relative_error), text_of(u.kl, "{:.5f}")});
  }
  return table;
}

// Mean |input| by channel, loudest first, before and after scaling; the loudest 1 % as a line of their own.
report::LineChart channel_chart(const UnitDiagnosis& u) {
  std::vector<size_t> order = largest_first(u.channel_mean, [](float v) { return static_cast<double>(v); });
  report::LineChart chart{"Inputs of " + u.unit.name, "Mean size of each input channel, loudest channel first.", "channel, by size", "mean |input|", true, {}};
  report::LineChart::Series before{"before scaling", {}}, after{"after scaling", {}}, salient{"loudest 1 %", {}};
  const size_t loud = std::max<size_t>(1, order.size() / 100), step = std::max<size_t>(1, order.size() / 400);
  for (size_t k = 0; k < order.size(); ++k) {
    const double x = static_cast<double>(k), y = u.channel_mean[order[k]];
    if (k < loud) salient.points.push_back({x, y});
    if (k >= loud && k % step != 0) continue;
    before.points.push_back({x, y});
    after.points.push_back({x, y / u.channel_scale[order[k]]});
  }
  chart.series = {std::move(before), std::move(after), std::move(salient)};
  return chart;
}

report::Table tokens_table(const Diagnosis& d, const DiagnoseFacts& facts) {
  report::Table table{"The tokens that change most", {{"before"}, {"token"}, {"KL", true}, {"loss, source", true}, {"loss", true}}, {}};
  for (const size_t k : worst_tokens(d)) {
    const TokenDiagnosis& t = d.tokens[k];
    const TokenContext c = context_of(facts, t);
    table.rows.push_back({one_line(c.before), one_line(c.token), text_of(t.loss.kl, "{:.3f}"), text_of(t.loss.nll_source, "{:.2f}"), text_of(t.loss.nll, "{:.2f}")});
  }
  return table;
}

report::Table plan_table(const ModelPlan& plan) {
  report::Table table{"What the plan gives", {{"parts"}, {"bits", true}, {"group", true}}, {}};
  for (const MixedUnit& u : plan.plan.units) {
    std::string names;
    for (const std::string& module : u.modules) names += (names.empty() ? "" : ", ") + module;
    const bool dense = u.scheme.bits == kDenseBits;
    table.rows.push_back({names, std::to_string(u.scheme.bits), dense ? "\u2013" : std::to_string(u.scheme.group)});
  }
  return table;
}

Json plan_json(const ModelPlan& plan) {
  Json schemes = Json::object();
  for (const auto& [name, weights] : plan.schemes) schemes[name] = weights;
  return {{"expected_kl", plan.expected_kl},
          {"uniform_kl", plan.uniform_kl},
          {"weight_bytes", plan.bytes},
          {"uniform_weight_bytes", plan.uniform_bytes},
          {"bits_per_weight", plan.bits_per_weight},
          {"weights_by_scheme", std::move(schemes)},
          {"plan", mixed_plan_json(plan.plan)}};
}

std::string share_text(const Diagnosis& d) {
  std::vector<double> kl;
  double sum = 0;
  for (const UnitDiagnosis& u : d.units) kl.push_back(u.kl), sum += u.kl;
  std::sort(kl.rbegin(), kl.rend());
  double half = 0;
  size_t n = 0;
  while (n < kl.size() && half < sum / 2) half += kl[n++];
  return fmt::format("{} of {} parts cause half of the sum of all parts' KL.", n, kl.size());
}

std::string csv(const std::string& text) {
  if (text.find_first_of(",\"\n\r") == std::string::npos) return text;
  std::string out = "\"";
  for (const char c : text) out += c == '"' ? std::string("\"\"") : std::string(1, c);
  return out + "\"";
}
std::string csv(double v) { return std::isfinite(v) ? fmt::format("{:.9g}", v) : ""; }

}  // namespace

report::Table units_table(const Diagnosis& d, size_t rows) {
  report::Table table{"What costs most, when it alone is quantized",
                      {{"part"}, {"scheme"}, {"KL", true}, {"KL saved if left", true}, {"perplexity", true}, {"error", true}, {"block changes", true}, {"loudest channel", true}},
                      {}};
  const auto order = by_kl(d);
  for (size_t k = 0; k < std::min(rows, order.size()); ++k) {
    const UnitDiagnosis& u = d.units[order[k]];
    table.rows.push_back({u.unit.name, u.unit.scheme.text(), fmt::format("{}{:.5f}", u.measured ? "" : "\u2248", u.kl), text_of(u.kl_rest, "{:.5f}"),
                          std::isfinite(u.perplexity) ? fmt::format("{:+.2f} %", 100 * (u.perplexity / d.total.perplexity_source - 1)) : "\u2013",
                          percent(u.relative_error), percent(u.block_change), text_of(u.outlier, "{:.1f}x")});
  }
  return table;
}

report::Table linears_table(const Diagnosis& d, size_t rows) {
  const bool given = of_given(d);
  report::Table table{given ? "Largest errors, against what the same scheme would leave" : "Largest errors", {{"linear"}, {"scheme"}, {"error", true}}, {}};
  if (given) table.columns.insert(table.columns.end(), {{"expected", true}, {"times", true}});
  const auto order = by_error(d);
  for (size_t k = 0; k < std::min(rows, order.size()); ++k) {
    const LinearDiagnosis& l = d.linears[order[k]];
    table.rows.push_back({l.module, l.scheme.text(), percent(l.relative_error)});
    if (given) table.rows.back().insert(table.rows.back().end(), {percent(l.expected_error), text_of(excess(l), "{:.2f}")});
  }
  return table;
}

Json diagnose_json(const Diagnosis& d, const DiagnoseFacts& facts, const std::optional<ModelPlan>& plan) {
  Json units = Json::array(), linears = Json::array(), depth = Json::array(), tokens = Json::array();
  for (const size_t k : by_kl(d)) {
    const UnitDiagnosis& u = d.units[k];
    units.push_back({{"name", u.unit.name},
                     {"block", u.unit.block},
                     {"site", site_name(u.unit.site)},
                     {"modules", u.unit.modules},
                     {"scheme", u.unit.scheme.text()},
                     {"weights", u.unit.weights},
                     {"kl", u.kl},
                     {"measured", u.measured},
                     {"kl_saved", json_number(u.kl_rest)},
                     {"perplexity", json_number(u.perplexity)},
                     {"perplexity_without", json_number(u.perplexity_rest)},
                     {"relative_error", json_number(u.relative_error)},
                     {"block_change", u.block_change},
                     {"loudest_channel", json_number(u.outlier)},
                     {"largest_input", json_number(u.channel_max)}});
  }
  for (const size_t k : by_error(d)) {
    const LinearDiagnosis& l = d.linears[k];
    linears.push_back({{"module", l.module},
                       {"block", l.block},
                       {"scheme", l.scheme.text()},
                       {"relative_error", json_number(l.relative_error)},
                       {"expected_error", json_number(l.expected_error)},
                       {"times_expected", json_number(excess(l))}});
  }
  for (size_t b = 0; b < d.depth.size(); ++b)
    depth.push_back({{"block", b},
                     {"kl_alone", d.depth[b].kl_alone},
                     {"kl_along", d.depth[b].kl_along},
                     {"change_alone", d.depth[b].change_alone},
                     {"change_along", d.depth[b].change_along}});
  for (const size_t k : worst_tokens(d)) {
    const TokenDiagnosis& t = d.tokens[k];
    const TokenContext c = context_of(facts, t);
    tokens.push_back({{"sequence", t.sequence},
                      {"position", t.position},
                      {"before", c.before},
                      {"token", c.token},
                      {"kl", t.loss.kl},
                      {"nll_source", t.loss.nll_source},
                      {"nll", t.loss.nll}});
  }
  const std::vector<double> kl = token_kl(d);
  Json json = {{"schema", "awq.diagnose/1"},
               {"model", facts.model},
               {"quantized", facts.quantized.empty() ? Json(nullptr) : Json(facts.quantized)},
               {"scheme", d.scheme_text},
               {"calibration", facts.calibration},
               {"calibration_tokens", facts.calibration_tokens},
               {"samples", samples_json(facts.samples)},
               {"text", facts.text},
               {"tokens", d.total.tokens},
               {"kl", d.total.kl},
               {"kl_ci95", d.total.kl_ci95},
               {"kl_median", quantile(kl, 0.5)},
               {"kl_p99", quantile(kl, 0.99)},
               {"top1_agreement", d.total.top1_agreement},
               {"perplexity", d.total.perplexity},
               {"perplexity_source", d.total.perplexity_source},
               {"units", std::move(units)},
               {"linears", std::move(linears)},
               {"depth", std::move(depth)},
               {"worst_tokens", std::move(tokens)},
               {"seconds", facts.seconds},
               {"seconds_quantize", d.seconds_quantize},
               {"seconds_measure", d.seconds_measure},
               {"peak_rss_bytes", peak_rss_bytes()},
               {"machine", facts.machine}};
  if (plan) json["plan"] = plan_json(*plan);
  return json;
}

std::string diagnose_page(const Diagnosis& d, const DiagnoseFacts& facts, const std::optional<ModelPlan>& plan) {
  report::Page page(fmt::format("{}: what quantization costs, part by part", facts.quantized.empty() ? facts.model : facts.quantized));
  page.paragraph(fmt::format("{} against its source{}: KL {:.4f} ±{:.4f} nats per token, the same most likely token for {:.1f} %, perplexity {:.2f} after {:.2f}, "
                             "on {} tokens of {}. Statistics from {} tokens of {}. {}.",
                             d.scheme_text, facts.quantized.empty() ? "" : " " + facts.model, d.total.kl, d.total.kl_ci95, 100 * d.total.top1_agreement,
                             d.total.perplexity, d.total.perplexity_source, d.total.tokens, facts.text, facts.calibration_tokens, facts.calibration,
                             facts.machine));
  if (facts.samples.automatic) page.paragraph("Calibrated with " + samples_text(facts.samples, facts.seq_len) + ".");
  page.code(facts.command);
  page.heading("Which parts cost most")
      .paragraph("Each part alone is quantized and the rest left as the source has it. " + share_text(d) +
                 " Parts marked \u2248 are estimated from the change of their block's output; the others are measured.")
      .heat_map(heat_map(d))
      .table(units_table(d, 24));
  page.heading("Where the errors are")
      .paragraph("An error is the energy by which rounding changes a linear's output, over the output's energy. A large error need not cost much: compare with "
                 "the map above.")
      .heat_map(error_map(d))
      .table(linears_table(d, 12));
  page.heading("Along the depth")
      .paragraph("Where the upper curve rises faster than the lower one, errors of earlier blocks grow on their way; where it falls, later blocks correct them.")
      .line_chart(kl_along(d))
      .line_chart(change_along(d));
  page.heading("Which inputs suffer")
      .paragraph("A mean far above the median says that a few tokens carry the damage; they are listed with what stood before them.")
      .bar_chart(token_bars(d))
      .table(tokens_table(d, facts));
  page.heading("Loud channels")
      .paragraph("AWQ's reason to exist: channels whose inputs are far larger than the others' make the rounding errors of their weights count.")
      .table(outliers_table(d, 12));
  page.paragraph("The inputs of the three parts that cost most. Scaling lowers what stands out: the closer the second line is to level, the more evenly "
                 "rounding errors count.");
  auto worst = by_kl(d);
  std::erase_if(worst, [&](size_t k) { return d.units[k].channel_mean.empty(); });
  worst.resize(std::min<size_t>(worst.size(), 3));
  for (const size_t k : worst) page.line_chart(channel_chart(d.units[k]));
  if (plan) {
    page.heading("The plan").paragraph(
        fmt::format("{} of weight files against {} of the uniform checkpoint ({:+.1f} %), {:.2f} bits per weight of the linears, expected KL {:.4f} instead of {:.4f}.",
                    human_bytes(static_cast<double>(plan->bytes)), human_bytes(static_cast<double>(plan->uniform_bytes)),
                    100 * (static_cast<double>(plan->bytes) / static_cast<double>(plan->uniform_bytes) - 1), plan->bits_per_weight, plan->expected_kl, plan->uniform_kl));
    page.begin_details("Parts with another scheme than the base").table(plan_table(*plan)).end_details();
  }
  page.footer(fmt::format("awq diagnose, {}", human_seconds(facts.seconds)));
  return page.html();
}

void write_csv(const std::filesystem::path& folder, const Diagnosis& d, const DiagnoseFacts& facts) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) fail(Code::kIo, "{}: cannot be made a folder: {}", folder.string(), error.message());
  std::string units = "part,block,site,scheme,weights,kl,measured,kl_saved,perplexity,perplexity_without,relative_error,block_change,loudest_channel,largest_input\n";
  for (const UnitDiagnosis& u : d.units)
    units += fmt::format("{},{},{},{},{},{},{},{},{},{},{},{},{},{}\n", csv(u.unit.name), u.unit.block, site_name(u.unit.site), u.unit.scheme.text(), u.unit.weights,
                         csv(u.kl), u.measured ? 1 : 0, csv(u.kl_rest), csv(u.perplexity), csv(u.perplexity_rest), csv(u.relative_error), csv(u.block_change), csv(u.outlier), csv(u.channel_max));
  write_file_atomic(folder / "units.csv", units);
  std::string linears = "module,block,scheme,relative_error,expected_error\n";
  for (const LinearDiagnosis& l : d.linears)
    linears += fmt::format("{},{},{},{},{}\n", l.module, l.block, l.scheme.text(), csv(l.relative_error), csv(l.expected_error));
  write_file_atomic(folder / "linears.csv", linears);
  std::string depth = "block,kl_alone,kl_along,change_alone,change_along\n";
  for (size_t b = 0; b < d.depth.size(); ++b)
    depth += fmt::format("{},{},{},{},{}\n", b, csv(d.depth[b].kl_alone), csv(d.depth[b].kl_along), csv(d.depth[b].change_alone), csv(d.depth[b].change_along));
  write_file_atomic(folder / "depth.csv", depth);
  std::string tokens = "sequence,position,token,kl,nll_source,nll,same_top\n";
  for (const TokenDiagnosis& t : d.tokens)
    tokens += fmt::format("{},{},{},{},{},{},{}\n", t.sequence, t.position, csv(context_of(facts, t).token), csv(t.loss.kl), csv(t.loss.nll_source), csv(t.loss.nll),
                          t.loss.same_top ? 1 : 0);
  write_file_atomic(folder / "tokens.csv", tokens);
}

}  // namespace awq::cli
