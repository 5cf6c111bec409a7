#include "checkpoint/gguf_rope.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>

#include "base/printable.h"

namespace awq {
namespace {

using Json = nlohmann::ordered_json;

struct Llama3 {
  double factor, low, high, original;
};

// Divisor of frequency i: 1 for wavelengths below original/high, factor above original/low, between them the
// frequency is blended linearly in original/wavelength (Llama 3.1; transformers' modeling_rope_utils).
double divisor(const Llama3& s, double theta, int64_t i, int64_t head_dim) {
  const double wavelength =
      2 * std::numbers::pi * std::pow(theta, 2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
  if (wavelength < s.original / s.high) return 1;
  if (wavelength > s.original / s.low) return s.factor;
  const double smooth = (s.original / wavelength - s.low) / (s.high - s.low);
  return 1 / ((1 - smooth) / s.factor + smooth);
}

std::vector<float> stored_factors(const GgufFile& gguf, const GgufTensor& tensor, int64_t head_dim) {
  const std::string where = gguf.path().string() + ": tensor '" + tensor.name + "'";
  if (tensor.shape != Shape{head_dim / 2})
    fail(Code::kBadFile, "{}: expected shape [{}], got {}", where, head_dim / 2, shape_text(tensor.shape));
  std::vector<float> factors(static_cast<size_t>(head_dim / 2));
  dequantize_block_type(*tensor.type, gguf.bytes(tensor).data(), factors.data(), head_dim / 2, where);
  return factors;
}

// The largest divisor is the factor itself, unless no wavelength is long enough to get it whole.
Json llama3_parameters(const GgufFile& gguf, const std::vector<float>& factors, double theta,
                       int64_t head_dim) {
  const double largest = *std::max_element(factors.begin(), factors.end());
  // The converter works in float, and near the blend's end one rounding of `smooth` moves the divisor by
  // about factor^2 / 3 roundings.
  const auto gives = [&](const Llama3& s) {
    for (size_t i = 0; i < factors.size(); ++i) {
      const double expected = divisor(s, theta, static_cast<int64_t>(i), head_dim);
      if (!(std::abs(factors[i] - expected) <= expected * (1e-6 + 4e-7 * s.factor))) return false;
    }
    return true;
  };
  for (const double original : {8192.0, 4096.0, 16384.0, 2048.0, 32768.0, 1024.0, 512.0, 256.0, 128.0, 64.0})
    for (const double factor : {largest, 8.0, 32.0, 16.0, 4.0, 2.0})
      if (gives({factor, 1, 4, original}))
        return {
            {"rope_type", "llama3"},   {"rope_theta", theta},
            {"factor", factor},        {"low_freq_factor", 1.0},
            {"high_freq_factor", 4.0}, {"original_max_position_embeddings", static_cast<int64_t>(original)}};
  fail(Code::kUnsupported,
       "{}: tensor '{}': its divisors (up to {:.6g}) are not those of llama3 rope scaling",
       gguf.path().string(), kRopeFreqs, largest);
}

// The stored factor multiplies YaRN's own magnitude; config.json has the product.
void add_yarn(const GgufFile& gguf, const std::string& prefix, double factor, Json& rope) {
  if (const auto multiplier = gguf.real(prefix + "scaling.yarn_log_multiplier"); multiplier && *multiplier != 0)
    fail(Code::kUnsupported, "{}: key '{}scaling.yarn_log_multiplier': expected none, got {}", gguf.path().string(),
         prefix, *multiplier);
  for (const char* beta : {"beta_fast", "beta_slow"})
    if (const auto value = gguf.real(prefix + "scaling.yarn_" + beta)) rope[beta] = *value;
  const double magnitude = gguf.real(prefix + "scaling.attn_factor").value_or(1);
  if (magnitude != 1) rope["attention_factor"] = magnitude * (factor > 1 ? 0.1 * std::log(factor) + 1 : 1);
}

Json scaled_parameters(const GgufFile& gguf, const std::string& prefix, const std::string& type,
                       double theta) {
  const auto factor = gguf.real(prefix + "scaling.factor");
  if (!factor || *factor <= 0)
    fail(Code::kBadFile, "{}: key '{}scaling.factor': expected a positive number", gguf.path().string(),
         prefix);
  Json rope = {{"rope_type", type}, {"rope_theta", theta}, {"factor", *factor}};
  if (const auto original = gguf.integer(prefix + "scaling.original_context_length"))
    rope["original_max_position_embeddings"] = *original;
  if (type == "yarn") add_yarn(gguf, prefix, *factor, rope);
  return rope;
}

// The float as the shortest decimal that gives it back, as configurations are written.
Json decimals(const std::vector<float>& values) {
  Json list = Json::array();
  for (const float v : values) list.push_back(std::stod(fmt::format("{}", v)));
  return list;
}

// Phi-3: the lists are tensors, the magnitude is a key, and scaling.type is not written.
Json longrope_parameters(const GgufFile& gguf, const std::string& prefix, double theta, int64_t rotated) {
  const GgufTensor *shorter = gguf.find(kRopeFactorsShort), *longer = gguf.find(kRopeFactorsLong);
  if (shorter == nullptr || longer == nullptr)
    fail(Code::kBadFile, "{}: tensors '{}' and '{}': expected both, got one or none", gguf.path().string(),
         kRopeFactorsShort, kRopeFactorsLong);
  const auto original = gguf.integer(prefix + "scaling.original_context_length");
  if (!original || *original < 1)
    fail(Code::kBadFile, "{}: key '{}scaling.original_context_length': expected a positive number",
         gguf.path().string(), prefix);
  Json rope = {{"rope_type", "longrope"}, {"rope_theta", theta}, {"original_max_position_embeddings", *original}};
  rope["short_factor"] = decimals(stored_factors(gguf, *shorter, rotated));
  rope["long_factor"] = decimals(stored_factors(gguf, *longer, rotated));
  if (const auto magnitude = gguf.real(prefix + "scaling.attn_factor")) rope["attention_factor"] = *magnitude;
  return rope;
}

}  // namespace

Json rope_parameters_from_gguf(const GgufFile& gguf, const GgufArch& arch, int64_t rotated) {
  const std::string prefix = std::string(arch.name) + ".rope.";
  const double theta = gguf.real(prefix + "freq_base").value_or(10000.0);
  if (!(theta > 0))
    fail(Code::kBadFile, "{}: key '{}freq_base': expected a positive number, got {}", gguf.path().string(),
         prefix, theta);
  const std::string type = gguf.text(prefix + "scaling.type").value_or("none");
  if (type == "linear" || type == "yarn") return scaled_parameters(gguf, prefix, type, theta);
  if (type != "none" && type != "longrope")
    fail(Code::kUnsupported, "{}: key '{}scaling.type': expected none, linear, yarn or longrope, got '{}'",
         gguf.path().string(), prefix, printable(type, 40));
  if (type == "longrope" || gguf.find(kRopeFactorsLong) != nullptr || gguf.find(kRopeFactorsShort) != nullptr)
    return longrope_parameters(gguf, prefix, theta, rotated);
  if (const GgufTensor* tensor = gguf.find(kRopeFreqs)) {
    const std::vector<float> factors = stored_factors(gguf, *tensor, rotated);
    if (!std::all_of(factors.begin(), factors.end(), [](float f) { return f == 1.0f; }))
      return llama3_parameters(gguf, factors, theta, rotated);
  }
  return {{"rope_type", "default"}, {"rope_theta", theta}};
}

}  // namespace awq
