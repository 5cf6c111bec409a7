#include "quant/job_record.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "checkpoint/json_file.h"

namespace awq {
namespace {

using nlohmann::ordered_json;

// nlohmann's shortest decimal form reads back as the same double; JSON has no NaN.
ordered_json number(double value) { return std::isfinite(value) ? ordered_json(value) : ordered_json(nullptr); }
double number(const ordered_json& value) { return value.is_null() ? std::nan("") : value.get<double>(); }

ordered_json layer_json(const LayerReport& l) {
  return ordered_json::array(
      {l.block, l.module, number(l.relative_error), number(l.group_loss), number(l.group_awq_loss), l.chosen});
}

LayerReport parse_layer(const ordered_json& l) {
  return {l.at(0).get<int64_t>(), l.at(1).get<std::string>(), number(l.at(2)), number(l.at(3)), number(l.at(4)), l.at(5).get<std::string>()};
}

ordered_json check_json(const CheckResult& c) {
  return ordered_json::array({c.tokens, number(c.kl), number(c.kl_ci95), number(c.top1_agreement), number(c.perplexity_source),
                              number(c.perplexity)});
}

CheckResult parse_check(const ordered_json& c) {
  return {c.at(0).get<int64_t>(), number(c.at(1)), number(c.at(2)), number(c.at(3)), number(c.at(4)), number(c.at(5))};
}

}  // namespace

std::string report_json(const JobReport& report) {
  const QuantizeResult& r = report.result;
  ordered_json json = {{"dtype", r.dtype == DType::kF16 ? "float16" : "bfloat16"}, {"activation_max", number(r.activation_max)}};
  json["depth_error"] = ordered_json::array();
  for (const double d : r.depth_error) json["depth_error"].push_back(number(d));
  json["layers"] = ordered_json::array();
  for (const LayerReport& l : r.layers) json["layers"].push_back(layer_json(l));
  json["check"] = r.check ? check_json(*r.check) : ordered_json(nullptr);
  json["manifest_sha256"] = report.manifest_sha256;
  return json.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

JobReport parse_report(std::string_view text, const std::string& where) {
  const ordered_json json = parse_json(text, where);
  JobReport report;
  QuantizeResult& r = report.result;
  try {
    const auto dtype = json.at("dtype").get<std::string>();
    if (dtype != "float16" && dtype != "bfloat16") fail(Code::kBadFile, "{}: dtype: expected float16 or bfloat16", where);
    r.dtype = dtype == "float16" ? DType::kF16 : DType::kBF16;
    r.activation_max = static_cast<float>(number(json.at("activation_max")));
    for (const ordered_json& d : json.at("depth_error")) r.depth_error.push_back(number(d));
    for (const ordered_json& l : json.at("layers")) r.layers.push_back(parse_layer(l));
    if (!json.at("check").is_null()) r.check = parse_check(json.at("check"));
    report.manifest_sha256 = json.at("manifest_sha256").get<std::string>();
  } catch (const nlohmann::json::exception& e) {
    fail(Code::kBadFile, "{}: the report of the unfinished job is damaged: {}", where, e.what());
  }
  return report;
}

}  // namespace awq
