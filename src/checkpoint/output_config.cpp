#include "checkpoint/output_config.h"

#include <nlohmann/json.hpp>

namespace awq {
namespace {

using nlohmann::ordered_json;

// Where other tools say "these weights are compressed"; what we write is not.
constexpr const char* kForeignKeys[] = {"quantization_config", "compression_config", "quantize_config",
                                        "quant_config", "quantization"};

const char* torch_name(DType dtype) {
  switch (dtype) {
    case DType::kF16:
      return "float16";
    case DType::kBF16:
      return "bfloat16";
    case DType::kF32:
      return "float32";
    default:
      fail(Code::kInternal, "config.json: {} is not a dtype of plain weights", dtype_name(dtype));
  }
}

// transformers 5 writes "dtype" and "rope_parameters" where 4 wrote "torch_dtype" and "rope_theta".
bool is_transformers5(const ordered_json& config) {
  return config.contains("rope_parameters") || config.value("transformers_version", "").starts_with("5.");
}

void set_dtype(ordered_json& config, DType dtype) {
  // Both spellings are read in the field; torch_dtype is the one that every version understands.
  if (config.contains("dtype") || is_transformers5(config)) config["dtype"] = torch_name(dtype);
  config["torch_dtype"] = torch_name(dtype);
  // Multimodal configurations repeat the dtype for the language model.
  const auto text = config.find("text_config");
  if (text == config.end() || !text->is_object()) return;
  for (const char* key : {"dtype", "torch_dtype"})
    if (text->contains(key)) (*text)[key] = torch_name(dtype);
}

void remove_foreign(ordered_json& config, bool keep_place) {
  for (const char* key : kForeignKeys)
    if (!keep_place || std::string_view(key) != "quantization_config") config.erase(key);
  const auto text = config.find("text_config");
  if (text == config.end() || !text->is_object()) return;
  for (const char* key : kForeignKeys) text->erase(key);
}

void check_object(const ordered_json& source) {
  if (!source.is_object())
    fail(Code::kBadFile, "config.json: expected an object, got {}", source.type_name());
}

}  // namespace

ordered_json quantized_config(const ordered_json& source, const AwqConfig& awq, DType dtype) {
  check_object(source);
  if (awq.bits != 4 || awq.version != "gemm")
    fail(Code::kInternal, "config.json: expected 4 bits and version gemm, got {} and {}", awq.bits,
         awq.version);
  ordered_json config = source;
  remove_foreign(config, /*keep_place=*/true);
  set_dtype(config, dtype);
  ordered_json skipped = nullptr;  // null: loaders infer the list from the tensors' dtypes
  if (!awq.modules_to_not_convert.empty()) skipped = awq.modules_to_not_convert;
  // zero_point is true for symmetric weights as well: their zero points are stored, and are 8.
  config["quantization_config"] = {
      {"quant_method", "awq"}, {"bits", 4},         {"group_size", awq.group_size},
      {"zero_point", true},    {"version", "gemm"}, {"modules_to_not_convert", std::move(skipped)}};
  return config;
}

ordered_json dense_config(const ordered_json& source, DType dtype) {
  check_object(source);
  ordered_json config = source;
  remove_foreign(config, /*keep_place=*/false);
  set_dtype(config, dtype);
  return config;
}

}  // namespace awq
