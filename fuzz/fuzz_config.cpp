// config.json and the quantization settings in it: what is accepted makes a model of bounded size.
#include <cmath>
#include <nlohmann/json.hpp>

#include "checkpoint/awq_config.h"
#include "checkpoint/json_file.h"
#include "checkpoint/scaled_floats.h"
#include "model/arch.h"
#include "target.h"

using namespace awq;
using fuzz::require;

namespace {

void check_model(const ModelConfig& c) {
  require(c.layers > 0 && c.layers <= 4096 && c.heads > 0 && c.kv_heads > 0 && c.heads % c.kv_heads == 0);
  require(c.hidden > 0 && c.intermediate > 0 && c.vocab > 0 && c.head_dim > 0 && c.head_dim % 2 == 0);
  require(c.max_position >= 0 && c.sliding_window >= 0 && c.rope.dim >= 0 && c.rope.dim <= c.head_dim);
  require(c.full_layers.empty() || c.full_layers.size() == static_cast<size_t>(c.layers));
  require(std::isfinite(c.rms_eps) && c.rms_eps >= 0);
  if (c.rope.dim <= 4096)
    for (const int64_t length : {int64_t{0}, c.max_position})
      for (const double f : rope_inv_freq(c.rope, length)) require(!std::isnan(f));
  const BlockSpec block = find_arch(c.model_type, "file").block(c, c.layers - 1);
  for (const LinearSpec& linear : block.linears) require(linear.in > 0 && linear.out > 0);
}

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  nlohmann::ordered_json json;
  if (!fuzz::accepts([&] { json = parse_json(fuzz::text_of(data, size), "file"); }) || !json.is_object())
    return 0;
  ModelConfig config;
  if (fuzz::accepts([&] { config = parse_model_config(json, "file"); })) check_model(config);
  if (const nlohmann::ordered_json* settings = quantization_config(json)) {
    fuzz::accepts([&] { read_scaled_floats(json, "file"); });
    fuzz::accepts([&] {
      const AwqConfig awq = parse_awq_config(*settings, "file");
      require(awq.bits == 4 && (awq.group_size == -1 || awq.group_size > 0));
    });
  }
  return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  return fuzz::mutate_json(data, size, max_size, seed);
}
