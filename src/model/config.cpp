#include "model/config.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>

#include "base/error.h"
#include "model/arch.h"

namespace awq {
namespace {

using Json = nlohmann::ordered_json;

const Json* find(const Json& object, const char* key) {
  const auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

class Reader {
 public:
  Reader(const Json& json, const std::string& where) : json_(json), where_(where) {}

  double number(const char* key, double fallback) const {
    const Json* v = find(json_, key);
    if (v == nullptr) return fallback;
    if (!v->is_number()) fail(Code::kBadFile, "{}: '{}': expected a number, got {}", where_, key, v->dump());
    return v->get<double>();
  }
  int64_t size(const char* key, int64_t fallback) const {
    const double value = number(key, static_cast<double>(fallback));
    if (value != std::floor(value) || value < 0 || value > 1e12)
      fail(Code::kBadFile, "{}: '{}': expected a whole number, got {}", where_, key, value);
    return static_cast<int64_t>(value);
  }
  int64_t required(const char* key) const {
    const int64_t value = size(key, 0);
    if (value <= 0) fail(Code::kBadFile, "{}: '{}': expected a positive number, got {}", where_, key, find(json_, key) ? "0" : "nothing");
    return value;
  }
  bool flag(const char* key, bool fallback) const {
    const Json* v = find(json_, key);
    if (v == nullptr) return fallback;
    if (!v->is_boolean()) fail(Code::kBadFile, "{}: '{}': expected true or false, got {}", where_, key, v->dump());
    return v->get<bool>();
  }
  std::string text(const char* key, const std::string& fallback) const {
    const Json* v = find(json_, key);
    if (v == nullptr) return fallback;
    if (!v->is_string()) fail(Code::kBadFile, "{}: '{}': expected a string, got {}", where_, key, v->dump());
    return v->get<std::string>();
  }

 private:
  const Json& json_;
  const std::string& where_;
};

RopeConfig parse_rope(const Json& config, const std::string& where) {
  RopeConfig rope;
  rope.theta = Reader(config, where).number("rope_theta", 10000);
  const Json* scaling = find(config, "rope_parameters");
  if (scaling == nullptr) scaling = find(config, "rope_scaling");
  if (scaling == nullptr) return rope;
  if (!scaling->is_object()) fail(Code::kBadFile, "{}: rope parameters: expected an object, got {}", where, scaling->dump());
  const Reader r(*scaling, where);
  rope.theta = r.number("rope_theta", rope.theta);
  const std::string type = r.text("rope_type", r.text("type", "default"));
  if (type == "default") return rope;
  if (type != "linear" && type != "llama3")
    fail(Code::kUnsupported, "{}: rope type '{}' is not supported (known: default, linear, llama3)", where, type);
  rope.type = type == "linear" ? RopeType::kLinear : RopeType::kLlama3;
  rope.factor = r.number("factor", 1);
  rope.low_freq_factor = r.number("low_freq_factor", 1);
  rope.high_freq_factor = r.number("high_freq_factor", 4);
  rope.original_max_position = r.number("original_max_position_embeddings", 8192);
  if (!(rope.factor > 0) || !(rope.high_freq_factor > rope.low_freq_factor) || !(rope.low_freq_factor > 0))
    fail(Code::kBadFile, "{}: rope scaling: expected factor > 0 and 0 < low_freq_factor < high_freq_factor, got {}, {}, {}", where,
         rope.factor, rope.low_freq_factor, rope.high_freq_factor);
  return rope;
}

std::vector<int32_t> token_ids(const Json& config, const char* key) {
  std::vector<int32_t> ids;
  if (const Json* v = find(config, key)) {
    if (v->is_number_integer()) ids.push_back(v->get<int32_t>());
    if (v->is_array())
      for (const Json& e : *v)
        if (e.is_number_integer()) ids.push_back(e.get<int32_t>());
  }
  return ids;
}

void check_shapes(const ModelConfig& c, const std::string& where) {
  if (c.heads % c.kv_heads != 0)
    fail(Code::kBadFile, "{}: num_attention_heads {} is not a multiple of num_key_value_heads {}", where, c.heads, c.kv_heads);
  if (c.head_dim % 2 != 0) fail(Code::kBadFile, "{}: head_dim: expected an even number, got {}", where, c.head_dim);
  for (int64_t v : {c.hidden, c.intermediate, c.layers, c.heads, c.vocab, c.head_dim})
    if (v > (int64_t{1} << 30)) fail(Code::kBadFile, "{}: a dimension of {} is beyond any model", where, v);
  if (!(c.rope.theta > 0)) fail(Code::kBadFile, "{}: rope_theta: expected a positive number, got {}", where, c.rope.theta);
}

}  // namespace

ModelConfig parse_model_config(const Json& config, const std::string& where) {
  if (!config.is_object()) fail(Code::kBadFile, "{}: expected a JSON object", where);
  const Reader r(config, where);
  ModelConfig c;
  c.model_type = r.text("model_type", "");
  find_arch(c.model_type, where);
  c.hidden = r.required("hidden_size");
  c.intermediate = r.required("intermediate_size");
  c.layers = r.required("num_hidden_layers");
  c.heads = r.required("num_attention_heads");
  c.kv_heads = r.size("num_key_value_heads", c.heads);
  if (c.kv_heads <= 0) fail(Code::kBadFile, "{}: 'num_key_value_heads': expected a positive number, got {}", where, c.kv_heads);
  c.head_dim = r.size("head_dim", 0);
  if (c.head_dim == 0) c.head_dim = c.hidden / c.heads;
  c.vocab = r.required("vocab_size");
  c.max_position = r.size("max_position_embeddings", 2048);
  c.rms_eps = static_cast<float>(r.number("rms_norm_eps", 1e-6));
  c.rope = parse_rope(config, where);
  c.tied = r.flag("tie_word_embeddings", false);
  const std::string activation = r.text("hidden_act", "silu");
  if (activation != "silu") fail(Code::kUnsupported, "{}: hidden_act '{}' is not supported (known: silu)", where, activation);
  const bool qwen2 = c.model_type == "qwen2";
  c.qkv_bias = qwen2 || r.flag("attention_bias", false);
  c.o_bias = !qwen2 && r.flag("attention_bias", false);
  c.mlp_bias = !qwen2 && r.flag("mlp_bias", false);
  if (r.flag("use_sliding_window", false))
    fail(Code::kUnsupported, "{}: use_sliding_window is not supported for model_type '{}'", where, c.model_type);
  c.eos = token_ids(config, "eos_token_id");
  const auto bos = token_ids(config, "bos_token_id");
  c.bos = bos.empty() ? -1 : bos.front();
  check_shapes(c, where);
  return c;
}

std::vector<double> rope_inv_freq(const ModelConfig& config) {
  const RopeConfig& rope = config.rope;
  std::vector<double> f(static_cast<size_t>(config.head_dim / 2));
  for (size_t i = 0; i < f.size(); ++i) {
    f[i] = std::pow(rope.theta, -2.0 * static_cast<double>(i) / static_cast<double>(config.head_dim));
    if (rope.type == RopeType::kLinear) f[i] /= rope.factor;
    if (rope.type != RopeType::kLlama3) continue;
    const double turns = rope.original_max_position * f[i] / (2 * std::numbers::pi);  // original length in wavelengths
    const double keep = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
    const double blend = std::clamp(keep, 0.0, 1.0);
    f[i] = f[i] * (blend + (1 - blend) / rope.factor);
  }
  return f;
}

}  // namespace awq
