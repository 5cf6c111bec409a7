#include "checkpoint/gguf_gemma.h"

#include <nlohmann/json.hpp>

namespace awq {
namespace {

using Json = nlohmann::ordered_json;

// A list says of each layer whether it has the window; a number that every so-manieth has none; else every `every`-th has none.
Json layer_types(const GgufFile& gguf, const std::string& prefix, int64_t layers, int64_t every) {
  const std::string key = prefix + "attention.sliding_window_pattern";
  const GgufValue* value = gguf.value(key);
  Json types = Json::array();
  if (value != nullptr && value->kind == GgufKind::kArray) {
    const std::vector<int64_t> windows = gguf.integers(key);
    if (static_cast<int64_t>(windows.size()) != layers)
      fail(Code::kBadFile, "{}: key '{}': expected {} values, one per layer, got {}", gguf.path().string(), key, layers, value->count);
    for (const int64_t has : windows) types.push_back(has != 0 ? "sliding_attention" : "full_attention");
    return types;
  }
  if (value != nullptr) every = gguf.integer(key).value_or(0);
  if (every < 1) fail(Code::kBadFile, "{}: key '{}': expected a positive number", gguf.path().string(), key);
  for (int64_t i = 1; i <= layers; ++i) types.push_back(i % every != 0 ? "sliding_attention" : "full_attention");
  return types;
}

Json softcap(const GgufFile& gguf, const std::string& key, double fallback) {
  const double cap = gguf.real(key).value_or(fallback);
  if (!(cap >= 0)) fail(Code::kBadFile, "{}: key '{}': expected a positive number, got {}", gguf.path().string(), key, cap);
  return cap == 0 ? Json() : Json(cap);
}

}  // namespace

void add_gemma_keys(const GgufFile& gguf, const GgufArch& arch, const Json& rope, Json& json) {
  const std::string prefix = std::string(arch.name) + ".";
  const bool third = arch.name == "gemma3";
  const auto layers = json["num_hidden_layers"].get<int64_t>(), hidden = json["hidden_size"].get<int64_t>(),
             heads = json["num_attention_heads"].get<int64_t>(), head_dim = json["head_dim"].get<int64_t>();
  const std::string window_key = prefix + "attention.sliding_window";
  const auto window = gguf.integer(window_key);
  if (!window || *window < 1 || *window > INT32_MAX)
    fail(Code::kBadFile, "{}: key '{}': expected a number of tokens, got {}", gguf.path().string(), window_key,
         window ? std::to_string(*window) : "nothing");
  json["hidden_activation"] = "gelu_pytorch_tanh";
  json["query_pre_attn_scalar"] = layers == (third ? 62 : 46) ? hidden / heads : head_dim;
  json["sliding_window"] = *window;
  json["layer_types"] = layer_types(gguf, prefix, layers, third ? 6 : 2);
  json["attn_logit_softcapping"] = softcap(gguf, prefix + "attn_logit_softcapping", third ? 0 : 50);
  json["final_logit_softcapping"] = softcap(gguf, prefix + "final_logit_softcapping", third ? 0 : 30);
  if (!third) return;
  const std::string theta_key = prefix + "rope.freq_base_swa";
  const double theta = gguf.real(theta_key).value_or(10000);
  if (!(theta > 0)) fail(Code::kBadFile, "{}: key '{}': expected a positive number, got {}", gguf.path().string(), theta_key, theta);
  // Both spellings, as for other architectures.
  json["rope_local_base_freq"] = theta;
  json["rope_parameters"] = {{"full_attention", rope}, {"sliding_attention", {{"rope_type", "default"}, {"rope_theta", theta}}}};
}

}  // namespace awq
