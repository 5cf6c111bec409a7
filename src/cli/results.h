// Results that `awq quantize`, `awq eval` and `awq generate` printed with --json, read back and put side by
// side.
#pragma once
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "report/html.h"

namespace awq::cli {

using Json = nlohmann::ordered_json;

// What is known about one variant of a model: the results given under one name. Null where none was given.
struct Variant {
  std::string name;
  Json quantize, perplexity, kl;
  std::vector<Json> generations;
};

// sections: NAME=FILE. In the order in which the names first appear. Throws kBadArgument, or kBadFile for a
// file that is not such a result.
std::vector<Variant> read_variants(const std::vector<std::string>& sections);

// Size, bits per weight, perplexity, KL, agreement, time and memory of each variant; an en dash where not
// measured.
report::Table methods_table(const std::vector<Variant>& variants);
// Tokens the perplexity was measured on, if it was.
std::optional<double> evaluated_tokens(const std::vector<Variant>& variants);

struct LayerError {
  std::string module;  // "model.layers.12.mlp.up_proj"
  double error = 0;    // output error over output energy
};
std::vector<LayerError> layer_errors(const Variant& variant);

// One prompt and what each variant made of it, in the order of the variants.
struct Generations {
  std::string prompt;
  std::vector<report::TextColumn> columns;
};
std::vector<Generations> generations(const std::vector<Variant>& variants);

}  // namespace awq::cli
