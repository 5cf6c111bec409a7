#include "model/rope.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>

#include "model/config_reader.h"

namespace awq {
namespace {

using Json = nlohmann::ordered_json;

constexpr RopeType kTypes[] = {RopeType::kDefault, RopeType::kLinear, RopeType::kDynamic,
                               RopeType::kLlama3,  RopeType::kYarn,   RopeType::kLongRope};

RopeType type_named(const std::string& name, const ConfigReader& r, const std::string& where) {
  // Early Phi-3 files call longrope "su" or, with the same lists of factors, "yarn".
  if (name == "su" || (name == "yarn" && r.find("long_factor") != nullptr)) return RopeType::kLongRope;
  std::string known;
  for (const RopeType type : kTypes) {
    if (name == rope_type_name(type)) return type;
    known += (known.empty() ? "" : ", ") + std::string(rope_type_name(type));
  }
  fail(Code::kUnsupported, "{}: rope type '{}' is not supported (known: {})", where, name, known);
}

void check_positive(double value, const char* key, const std::string& where) {
  if (!(value > 0) || !std::isfinite(value))
    fail(Code::kBadFile, "{}: rope scaling: '{}': expected a positive number, got {}", where, key, value);
}

// YaRN (Peng et al. 2023), section 3.4, with DeepSeek's two multipliers where both are given.
double yarn_magnitude(const ConfigReader& r, double factor) {
  const auto scale = [factor](double multiplier) { return factor <= 1 ? 1.0 : 0.1 * multiplier * std::log(factor) + 1; };
  const double mscale = r.number("mscale", 0), all_dim = r.number("mscale_all_dim", 0);
  return mscale != 0 && all_dim != 0 ? scale(mscale) / scale(all_dim) : scale(1);
}

void read_yarn(const ConfigReader& r, const std::string& where, RopeConfig& rope) {
  const auto number_or = [&](const char* key, double fallback) {
    const double value = r.number(key, fallback);
    return value == 0 ? fallback : value;  // zero means unset, as in transformers
  };
  rope.beta_fast = number_or("beta_fast", 32);
  rope.beta_slow = number_or("beta_slow", 1);
  rope.truncate = r.flag("truncate", true);
  check_positive(rope.beta_fast, "beta_fast", where);
  check_positive(rope.beta_slow, "beta_slow", where);
  if (!(rope.theta > 1)) fail(Code::kBadFile, "{}: rope_theta: expected more than 1 with yarn, got {}", where, rope.theta);
  rope.magnitude = r.number("attention_factor", yarn_magnitude(r, rope.factor));
}

void read_longrope(const ConfigReader& r, RopeConfig& rope) {
  const auto pairs = static_cast<size_t>(rope.dim / 2);
  rope.short_factor = r.numbers("short_factor", pairs);
  rope.long_factor = r.numbers("long_factor", pairs);
  const double length = rope.original_max_position;
  const double usual = rope.factor <= 1 || length <= 1 ? 1 : std::sqrt(1 + std::log(rope.factor) / std::log(length));
  rope.magnitude = r.number("attention_factor", usual);
}

void read_scaling(const ConfigReader& config, const ConfigReader& r, const RopeContext& context, const std::string& where,
                  RopeConfig& rope) {
  const auto longest = static_cast<double>(context.max_position);
  const char* original = "original_max_position_embeddings";
  const double beside = config.number(original, context.default_original_position);
  rope.original_max_position = beside != 0 ? beside : r.number(original, longest);
  if (rope.type == RopeType::kDynamic) rope.original_max_position = longest;
  check_positive(rope.original_max_position, original, where);

  const bool implied = rope.type == RopeType::kYarn || rope.type == RopeType::kLongRope;
  rope.factor = r.number("factor", implied ? longest / rope.original_max_position : 1);
  rope.low_freq_factor = r.number("low_freq_factor", 1);
  rope.high_freq_factor = r.number("high_freq_factor", 4);
  if (!(rope.factor > 0) || !(rope.high_freq_factor > rope.low_freq_factor) || !(rope.low_freq_factor > 0))
    fail(Code::kBadFile, "{}: rope scaling: expected factor > 0 and 0 < low_freq_factor < high_freq_factor, got {}, {}, {}", where,
         rope.factor, rope.low_freq_factor, rope.high_freq_factor);
  if (rope.type == RopeType::kDynamic && (rope.dim <= 2 || rope.factor < 1))
    fail(Code::kBadFile, "{}: dynamic rope scaling: expected a factor of at least 1 and more than one pair, got {} and {}", where,
         rope.factor, rope.dim / 2);
  if (rope.type == RopeType::kYarn) read_yarn(r, where, rope);
  if (rope.type == RopeType::kLongRope) read_longrope(r, rope);
  check_positive(rope.magnitude, "attention_factor", where);
}

// Share of pair i that keeps its frequency: 1 for wavelengths far below the original length, 0 far above.
std::vector<double> yarn_kept(const RopeConfig& rope) {
  const auto dim = static_cast<double>(rope.dim);
  const auto pair_turning = [&](double turns) {
    return dim * std::log(rope.original_max_position / (turns * 2 * std::numbers::pi)) / (2 * std::log(rope.theta));
  };
  double low = pair_turning(rope.beta_fast), high = pair_turning(rope.beta_slow);
  if (rope.truncate) low = std::floor(low), high = std::ceil(high);
  low = std::max(low, 0.0);
  high = std::min(high, dim - 1);
  if (low == high) high += 0.001;
  std::vector<double> kept(static_cast<size_t>(rope.dim / 2));
  for (size_t i = 0; i < kept.size(); ++i) kept[i] = 1 - std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
  return kept;
}

// Share of a frequency that is kept: by how often it turns within the original length.
double llama3_kept(const RopeConfig& rope, double frequency) {
  const double turns = rope.original_max_position * frequency / (2 * std::numbers::pi);
  return std::clamp((turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor), 0.0, 1.0);
}

// theta of dynamic NTK scaling: it grows with the length beyond the original one.
double dynamic_theta(const RopeConfig& rope, int64_t length) {
  const auto dim = static_cast<double>(rope.dim);
  const double stretch = std::max(1.0, static_cast<double>(length) / rope.original_max_position);
  return rope.theta * std::pow(rope.factor * stretch - (rope.factor - 1), dim / (dim - 2));
}

}  // namespace

const char* rope_type_name(RopeType type) {
  switch (type) {
    case RopeType::kDefault: return "default";
    case RopeType::kLinear: return "linear";
    case RopeType::kDynamic: return "dynamic";
    case RopeType::kLlama3: return "llama3";
    case RopeType::kYarn: return "yarn";
    case RopeType::kLongRope: return "longrope";
  }
  return "?";
}

namespace {

// The object of rope settings: what `key` of it says of some layers, or all of it.
RopeConfig read_rope(const Json& settings, const ConfigReader& config, const RopeContext& context, double default_theta,
                     const std::string& where) {
  if (!settings.is_object()) fail(Code::kBadFile, "{}: rope parameters: expected an object, got {}", where, settings.dump());
  const ConfigReader r(settings, where);
  for (const char* layers : {"full_attention", "sliding_attention"})
    if (r.find(layers) != nullptr)
      fail(Code::kUnsupported, "{}: rope parameters: expected one set for all layers, got some for '{}'", where, layers);

  RopeConfig rope;
  rope.theta = r.number("rope_theta", default_theta);
  if (!(rope.theta > 0)) fail(Code::kBadFile, "{}: rope_theta: expected a positive number, got {}", where, rope.theta);
  const double part = r.number("partial_rotary_factor", config.number("partial_rotary_factor", 1));
  rope.dim = static_cast<int64_t>(static_cast<double>(context.head_dim) * std::clamp(part, 0.0, 1.0));
  if (!(part > 0) || part > 1 || rope.dim < 2 || rope.dim % 2 != 0)
    fail(Code::kBadFile, "{}: 'partial_rotary_factor': expected an even part of the {} elements of a head, got {}", where,
         context.head_dim, part);
  rope.type = type_named(r.text("rope_type", r.text("type", "default")), r, where);
  if (rope.type != RopeType::kDefault) read_scaling(config, r, context, where, rope);
  return rope;
}

const Json& settings_in(const ConfigReader& config) {
  static const Json none = Json::object();
  const Json* settings = config.find("rope_parameters");
  if (settings == nullptr) settings = config.find("rope_scaling");
  return settings != nullptr ? *settings : none;
}

}  // namespace

RopeConfig parse_rope(const Json& json, const RopeContext& context, const std::string& where) {
  const ConfigReader config(json, where);
  return read_rope(settings_in(config), config, context, config.number("rope_theta", context.default_theta), where);
}

LayerRopes parse_layer_ropes(const Json& json, const RopeContext& context, double default_window_theta, const std::string& where) {
  const ConfigReader config(json, where);
  const double theta = config.number("rope_theta", context.default_theta);
  const double window_theta = config.number("rope_local_base_freq", default_window_theta);
  const Json none = Json::object();
  const Json &all = settings_in(config), *full = &all, *window = &none;
  if (all.is_object() && (all.contains("full_attention") || all.contains("sliding_attention"))) {
    full = all.contains("full_attention") ? &all["full_attention"] : &none;
    window = all.contains("sliding_attention") ? &all["sliding_attention"] : &none;
  }
  return {read_rope(*full, config, context, theta, where), read_rope(*window, config, context, window_theta, where)};
}

std::vector<double> rope_inv_freq(const RopeConfig& rope, int64_t length) {
  const double theta = rope.type == RopeType::kDynamic ? dynamic_theta(rope, length) : rope.theta;
  const auto& divisors = static_cast<double>(length) > rope.original_max_position ? rope.long_factor : rope.short_factor;
  const std::vector<double> kept = rope.type == RopeType::kYarn ? yarn_kept(rope) : std::vector<double>{};
  std::vector<double> f(static_cast<size_t>(rope.dim / 2));
  for (size_t i = 0; i < f.size(); ++i) {
    f[i] = std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(rope.dim));
    if (rope.type == RopeType::kLinear) f[i] /= rope.factor;
    if (rope.type == RopeType::kLongRope) f[i] /= divisors[i];
    if (rope.type != RopeType::kLlama3 && rope.type != RopeType::kYarn) continue;
    const double keep = rope.type == RopeType::kYarn ? kept[i] : llama3_kept(rope, f[i]);
    f[i] *= keep + (1 - keep) / rope.factor;
  }
  return f;
}

}  // namespace awq
