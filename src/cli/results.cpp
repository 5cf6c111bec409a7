#include "cli/results.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/system.h"

namespace awq::cli {
namespace {

constexpr const char* kNone = "–";

Json read_result(const std::string& path) {
  Json json = Json::parse(read_text_file(path), nullptr, false);
  if (!json.is_object() || !json.contains("schema") || !json["schema"].is_string())
    fail(Code::kBadFile, "{}: expected a JSON object with \"schema\", as awq prints with --json", path);
  return json;
}

std::optional<double> number(const Json& json, const char* key) {
  if (!json.is_object() || !json.contains(key) || !json[key].is_number()) return std::nullopt;
  return json[key].get<double>();
}

std::string text(const Json& json, const char* key) {
  return json.is_object() && json.contains(key) && json[key].is_string() ? json[key].get<std::string>() : "";
}

void add_result(Variant& variant, Json json, const std::string& path) {
  const std::string schema = text(json, "schema"), task = text(json, "task");
  if (schema == "awq.quantize/1")
    variant.quantize = std::move(json);
  else if (schema == "awq.generate/1")
    variant.generations.push_back(std::move(json));
  else if (schema == "awq.eval/1" && task == "ppl")
    variant.perplexity = std::move(json);
  else if (schema == "awq.eval/1" && task == "kl")
    variant.kl = std::move(json);
  else
    fail(Code::kBadFile, "{}: expected a result of quantize, eval --task ppl|kl or generate, got {} {}", path,
         schema, task);
}

// The first of `keys` that a measurement carries. An evaluation of the written files counts before the check
// that quantize made while writing them.
std::optional<double> measured(const Variant& variant, const char* key) {
  for (const Json* json : {&variant.perplexity, &variant.kl})
    if (const auto value = number(*json, key)) return value;
  return variant.quantize.is_object() ? number(variant.quantize.value("check", Json()), key) : std::nullopt;
}

// `stderr` in a result belongs to the number its task is named after.
std::string interval(const Json& json, int digits) {
  const auto error = number(json, "stderr");
  return error && *error > 0 ? fmt::format(" ±{:.{}f}", 1.96 * *error, digits) : "";
}

std::string bytes_cell(const std::optional<double>& bytes) { return bytes ? human_bytes(*bytes) : kNone; }

// The source's size stands in what quantize says of any variant made from it.
std::optional<double> size_of(const Variant& variant, const std::vector<Variant>& all) {
  if (variant.quantize.is_object()) return number(variant.quantize, "bytes");
  for (const Variant& other : all)
    if (const auto bytes = number(other.quantize, "source_bytes")) return bytes;
  return std::nullopt;
}

}  // namespace

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

report::Table methods_table(const std::vector<Variant>& variants) {
  report::Table table{"",
                      {{"model"},
                       {"size", true},
                       {"bits/weight", true},
                       {"perplexity", true},
                       {"KL", true},
                       {"same next token", true},
                       {"made in", true},
                       {"peak memory", true}},
                      {}};
  const auto cell = [](const std::optional<double>& value, int digits) {
    return value ? fmt::format("{:.{}f}", *value, digits) : std::string(kNone);
  };
  for (const Variant& v : variants) {
    const auto agree = measured(v, "top1_agreement"), seconds = number(v.quantize, "seconds");
    table.rows.push_back(
        {v.name, bytes_cell(size_of(v, variants)), cell(number(v.quantize, "bits_per_weight"), 2),
         cell(measured(v, "perplexity"), 3) + interval(v.perplexity, 3),
         cell(measured(v, "kl"), 4) + interval(v.kl, 4),
         agree ? fmt::format("{:.1f} %", 100 * *agree) : kNone, seconds ? human_seconds(*seconds) : kNone,
         bytes_cell(number(v.quantize, "peak_rss_bytes"))});
  }
  return table;
}

std::optional<double> evaluated_tokens(const std::vector<Variant>& variants) {
  for (const Variant& v : variants)
    if (const auto tokens = measured(v, "tokens")) return tokens;
  return std::nullopt;
}

std::vector<LayerError> layer_errors(const Variant& variant) {
  std::vector<LayerError> errors;
  if (!variant.quantize.is_object()) return errors;
  for (const Json& layer : variant.quantize.value("layers", Json::array()))
    if (const auto error = number(layer, "relative_error"); error && std::isfinite(*error) && *error >= 0)
      errors.push_back({text(layer, "module"), *error});
  return errors;
}

std::vector<Generations> generations(const std::vector<Variant>& variants) {
  std::vector<Generations> all;
  for (const Variant& v : variants)
    for (const Json& g : v.generations) {
      const std::string prompt = text(g, "prompt");
      auto at = std::find_if(all.begin(), all.end(),
                             [&](const Generations& other) { return other.prompt == prompt; });
      if (at == all.end()) at = all.insert(all.end(), Generations{prompt, {}});
      const auto rate = number(g, "tokens_per_s");
      at->columns.push_back(
          {rate ? fmt::format("{}, {:.1f} tokens/s", v.name, *rate) : v.name, text(g, "text")});
    }
  return all;
}

}  // namespace awq::cli
