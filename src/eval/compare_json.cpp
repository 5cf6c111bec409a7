#include "eval/compare_json.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "base/system.h"
#include "text/detokenizer.h"

namespace awq {

size_t best_row(const Comparison& c, size_t text) {
  size_t best = 0;
  for (size_t i = 1; i < c.rows.size(); ++i)
    if (c.rows[i].texts[text].divergence->kl < c.rows[best].texts[text].divergence->kl) best = i;
  return best;
}

namespace {

using Json = nlohmann::ordered_json;

Json number_or_null(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

Json speed_json(const Speed& s) {
  return {{"prefill_tokens_per_s", s.prefill_tokens_per_s}, {"decode_tokens_per_s", s.decode_tokens_per_s}};
}

const DomainShift& own_shift(const Comparison& c) { return c.all.shifts.front(); }
const DomainShift& shift_of(const Comparison& c, size_t text) { return c.all.shifts[text + 1]; }

Json shift_json(const Comparison& c, const CompareFacts& facts) {
  Json texts = Json::array();
  for (size_t t = 0; t < facts.text_names.size(); ++t) {
    const DomainShift& shift = shift_of(c, t);
    const DomainShift::Largest largest = shift.largest();
    texts.push_back({{"text", facts.text_names[t]},
                     {"mean", shift.mean()},
                     {"largest", largest.distance},
                     {"largest_block", largest.block},
                     {"largest_site", site_name(largest.site)}});
  }
  return {{"within_calibration", own_shift(c).mean()}, {"texts", std::move(texts)}};
}

}  // namespace

std::string shift_text(const Comparison& c, const CompareFacts& facts, size_t text) {
  const DomainShift& shift = shift_of(c, text);
  const DomainShift::Largest largest = shift.largest();
  return fmt::format("domain shift  {:.1f} % of the inputs' energy lies in other channels on {} than on the calibration text ({:.1f} % on a part of "
                     "that), most in block {} {}: {:.1f} %",
                     100 * shift.mean(), facts.text_names[text], 100 * own_shift(c).mean(), largest.block, site_name(largest.site),
                     100 * largest.distance);
}

nlohmann::ordered_json compare_json(const Comparison& c, const CompareFacts& facts) {
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
          {{"module", l.module}, {"relative_error", number_or_null(l.relative_error)}, {"chosen", l.chosen}});
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
          {"samples", samples_json(facts.samples)},
          {"domain_shift", shift_json(c, facts)},
          {"dtype", c.all.dtype == DType::kF16 ? "float16" : "bfloat16"},
          {"statistics_seconds", c.all.statistics_seconds},
          {"seconds", facts.seconds},
          {"peak_rss_bytes", peak_rss_bytes()},
          {"machine", facts.machine},
          {"methods", std::move(rows)},
          {"prompts", std::move(prompts)}};
}

}  // namespace awq
