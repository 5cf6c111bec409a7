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

namespace {

ordered_json gptq_settings(const OutputQuantization& q) {
  // Groups are static, whatever the order the codes were chosen in: nothing is reordered (desc_act).
  return {{"quant_method", "gptq"},
          {"bits", q.scheme.bits},
          {"group_size", q.scheme.group},
          {"desc_act", false},
          {"static_groups", true},
          {"sym", q.scheme.zero == ZeroKind::kNone},
          {"lm_head", false},
          {"checkpoint_format", q.form == StoredForm::kGptq ? "gptq" : "gptq_v2"},
          {"pack_dtype", "int32"},
          {"modules_in_block_to_quantize", nullptr}};
}

ordered_json compressed_tensors_group(const Scheme& s, const char* format, const std::vector<std::string>& targets) {
  const bool grouped = s.group > 0;
  ordered_json weights = {{"num_bits", s.bits},
                          {"type", "int"},
                          {"symmetric", s.zero == ZeroKind::kNone},
                          {"strategy", grouped ? "group" : "channel"},
                          {"group_size", grouped ? ordered_json(s.group) : ordered_json(nullptr)},
                          {"dynamic", false}};
  ordered_json activations = nullptr;
  if (s.activations == Activations::kInt8Token)
    activations = {{"num_bits", 8}, {"type", "int"}, {"symmetric", true}, {"strategy", "token"}, {"dynamic", true}};
  return {{"targets", targets},
          {"format", format},
          {"weights", std::move(weights)},
          {"input_activations", std::move(activations)},
          {"output_activations", nullptr}};
}

ordered_json compressed_tensors_settings(const OutputQuantization& q) {
  const char* format = form_name(q.form);
  ordered_json groups = ordered_json::object();
  for (const OutputQuantization::Group& g : q.groups)
    groups[fmt::format("group_{}", groups.size())] = compressed_tensors_group(g.scheme, format, g.modules);
  if (groups.empty()) groups["group_0"] = compressed_tensors_group(q.scheme, format, {"Linear"});
  return {{"quant_method", "compressed-tensors"},
          {"format", format},
          {"quantization_status", "compressed"},
          {"ignore", q.left_dense},
          {"kv_cache_scheme", nullptr},
          {"global_compression_ratio", nullptr},
          {"config_groups", std::move(groups)}};
}

ordered_json bitsandbytes_settings(const OutputQuantization& q, DType dtype) {
  const bool nf4 = q.form == StoredForm::kBnbNf4;
  return {{"quant_method", "bitsandbytes"},
          {"load_in_4bit", nf4},
          {"load_in_8bit", !nf4},
          {"bnb_4bit_quant_type", nf4 ? "nf4" : "fp4"},
          {"bnb_4bit_use_double_quant", nf4},
          {"bnb_4bit_compute_dtype", torch_name(dtype)},
          {"bnb_4bit_quant_storage", "uint8"},
          {"llm_int8_threshold", nf4 ? 6.0 : static_cast<double>(q.scheme.outlier_threshold)},
          {"llm_int8_has_fp16_weight", false},
          {"llm_int8_enable_fp32_cpu_offload", false},
          {"llm_int8_skip_modules", q.left_dense}};
}

ordered_json settings_of(const OutputQuantization& q, DType dtype) {
  switch (q.form) {
    case StoredForm::kGptq:
    case StoredForm::kGptqV2:
      return gptq_settings(q);
    case StoredForm::kPackQuantized:
    case StoredForm::kIntQuantized:
      return compressed_tensors_settings(q);
    default:
      return bitsandbytes_settings(q, dtype);
  }
}

}  // namespace

ordered_json packed_config(const ordered_json& source, const OutputQuantization& q, DType dtype) {
  if (q.form == StoredForm::kAwqGemm)
    return quantized_config(source, {.bits = q.scheme.bits, .group_size = q.scheme.group, .modules_to_not_convert = q.left_dense}, dtype);
  check_object(source);
  ordered_json config = source;
  remove_foreign(config, /*keep_place=*/true);
  set_dtype(config, dtype);
  config["quantization_config"] = settings_of(q, dtype);
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
