#include "checkpoint/packed_config.h"

#include <nlohmann/json.hpp>

#include "checkpoint/json_file.h"
#include "base/printable.h"

namespace awq {
namespace {

using Json = nlohmann::ordered_json;

// One JSON object with settings and the words that name it in errors.
struct Settings {
  const Json& json;
  std::string where;

  [[noreturn]] void wrong(const char* key, const char* expected, const Json& got) const {
    fail(Code::kBadFile, "{}: {}: expected {}, got {}", where, key, expected,
         printable(got.dump(-1, ' ', true)));
  }
  const Json* find(const char* key) const {
    const auto it = json.find(key);
    return it == json.end() || it->is_null() ? nullptr : &*it;
  }
  std::string text(const char* key) const {
    const Json* v = find(key);
    if (v == nullptr) return "";
    if (!v->is_string()) wrong(key, "a string", *v);
    return v->get<std::string>();
  }
  int integer(const char* key, int otherwise) const {
    const Json* v = find(key);
    if (v == nullptr) return otherwise;
    if (!v->is_number_integer() || *v < -1 || *v > 1 << 20) wrong(key, "an integer", *v);
    return v->get<int>();
  }
  bool flag(const char* key, bool otherwise) const {
    const Json* v = find(key);
    if (v == nullptr) return otherwise;
    if (!v->is_boolean()) wrong(key, "true or false", *v);
    return v->get<bool>();
  }
  float number(const char* key, float otherwise) const {
    const Json* v = find(key);
    if (v == nullptr) return otherwise;
    if (!v->is_number()) wrong(key, "a number", *v);
    return v->get<float>();
  }
  std::vector<std::string> names(const char* key) const {
    std::vector<std::string> out;
    const Json* v = find(key);
    if (v == nullptr) return out;
    if (!v->is_array()) wrong(key, "a list of names or null", *v);
    for (const Json& name : *v) {
      if (!name.is_string()) wrong(key, "a list of names", name);
      out.push_back(name.get<std::string>());
    }
    return out;
  }
};

FormHints hints_of(int bits, int group, const Settings& s) {
  if (bits < 2 || bits > 8) fail(Code::kUnsupported, "{}: expected 2 to 8 bits, got {}", s.where, bits);
  if (group == 0 || group < -1)
    fail(Code::kBadFile, "{}: group_size: expected a positive number or -1, got {}", s.where, group);
  return {bits, group};
}

PackedConfig parse_gptq(const Settings& s) {
  const std::string format = s.find("checkpoint_format") ? s.text("checkpoint_format") : s.text("format");
  if (!format.empty() && format != "gptq" && format != "gptq_v2")
    fail(Code::kUnsupported, "{}: expected checkpoint_format gptq or gptq_v2, got '{}'", s.where,
         printable(format, 40));
  return {format == "gptq_v2" ? StoredForm::kGptqV2 : StoredForm::kGptq,
          hints_of(s.integer("bits", 4), s.integer("group_size", 128), s),
          {}};
}

// One form for the whole checkpoint; widths and groups of several config_groups show in the shapes.
PackedConfig parse_compressed_tensors(const Settings& s) {
  const std::string format = s.text("format");
  const bool packed = format == "pack-quantized" || format == "mixed-precision";
  if (!packed && format != "int-quantized" && format != "naive-quantized")
    fail(Code::kUnsupported, "{}: expected format pack-quantized or int-quantized, got '{}'", s.where,
         printable(format, 40));
  const Json* groups = s.find("config_groups");
  if (groups == nullptr || !groups->is_object() || groups->empty())
    fail(Code::kBadFile, "{}: config_groups: expected an object", s.where);
  int bits = 4, group = -1;
  for (const auto& [name, value] : groups->items()) {
    const auto weights = value.is_object() ? value.find("weights") : value.end();
    if (!value.is_object() || weights == value.end() || !weights->is_object())
      s.wrong("config_groups", "objects with weights", value);
    const Settings w{*weights, s.where + ": config_groups." + printable(name, 40) + ".weights"};
    if (const std::string type = w.text("type"); type != "int")
      fail(Code::kUnsupported, "{}: expected type int, got '{}'", w.where, printable(type, 40));
    if (const std::string order = w.text("actorder"); order == "group" || order == "dynamic")
      fail(Code::kUnsupported, "{}: actorder '{}': columns out of order are not supported", w.where, order);
    bits = w.integer("num_bits", 4);
    group = w.integer("group_size", -1);
    hints_of(bits, group, w);
  }
  PackedConfig out{
      packed ? StoredForm::kPackQuantized : StoredForm::kIntQuantized, {bits, group}, s.names("ignore")};
  return out;
}

PackedConfig parse_bitsandbytes(const Settings& s) {
  const std::vector<std::string> skipped = s.names("llm_int8_skip_modules");
  if (s.flag("load_in_8bit", false))
    return {StoredForm::kBnbInt8, {8, -1, s.number("llm_int8_threshold", 6)}, skipped};
  if (!s.flag("load_in_4bit", false))
    fail(Code::kUnsupported, "{}: expected load_in_4bit or load_in_8bit", s.where);
  if (const std::string type = s.find("bnb_4bit_quant_type") ? s.text("bnb_4bit_quant_type") : "fp4";
      type != "nf4")
    fail(Code::kUnsupported, "{}: expected bnb_4bit_quant_type nf4, got '{}'", s.where, printable(type, 40));
  return {StoredForm::kBnbNf4, {4, 64}, skipped};
}

std::optional<PackedConfig> parse(const Settings& s) {
  const std::string method = s.text("quant_method");
  if (method == "gptq" || (method.empty() && s.find("desc_act"))) return parse_gptq(s);
  if (method == "compressed-tensors") return parse_compressed_tensors(s);
  if (method == "bitsandbytes") return parse_bitsandbytes(s);
  return std::nullopt;
}

bool any_of(std::string_view name, std::initializer_list<const char*> suffixes) {
  for (const char* suffix : suffixes)
    if (name.ends_with(suffix)) return true;
  return false;
}

}  // namespace

std::optional<PackedConfig> read_packed_config(const std::filesystem::path& dir, const Json& config,
                                               bool has_packed_weights) {
  const std::string config_path = (dir / "config.json").string();
  for (const char* at : {"", "text_config"}) {
    const auto inner = *at ? config.find(at) : config.end();
    const Json& object = inner != config.end() ? *inner : config;
    if (!object.is_object()) continue;
    const auto settings = object.find("quantization_config");
    if (settings != object.end() && settings->is_object())
      return parse({*settings, config_path + ": quantization_config"});
  }
  const std::filesystem::path beside = dir / "quantize_config.json";
  if (!has_packed_weights || !std::filesystem::exists(beside)) return std::nullopt;
  const Json json = read_json_object(beside);
  return parse({json, beside.string()});
}

bool is_packed_part(const PackedConfig& packing, std::string_view name, std::string_view dtype) {
  switch (packing.form) {
    case StoredForm::kAwqGemm:
    case StoredForm::kGptq:
    case StoredForm::kGptqV2:
      return any_of(name, {".qweight", ".qzeros", ".scales", ".g_idx"});
    case StoredForm::kPackQuantized:
      return any_of(name, {".weight_packed", ".weight_scale", ".weight_shape", ".weight_zero_point"});
    case StoredForm::kIntQuantized:
      return name.ends_with(".weight_scale") || (name.ends_with(".weight") && dtype == "I8");
    case StoredForm::kBnbNf4:
      return name.find(".weight.") != std::string_view::npos || (name.ends_with(".weight") && dtype == "U8");
    case StoredForm::kBnbInt8:
      return any_of(name, {".SCB", ".weight_format"}) || (name.ends_with(".weight") && dtype == "I8");
  }
  return false;
}

int64_t packed_weights(const PackedConfig& packing, const StoredTensor& t) {
  const int64_t n = numel(t.shape);
  if (!is_packed_part(packing, t.name, t.dtype)) return n;
  if (any_of(t.name, {".qweight", ".weight_packed"})) return n * 32 / packing.hints.bits;
  if (t.name.ends_with(".weight")) return t.dtype == "U8" ? 2 * n : n;
  return 0;
}

std::string packing_name(const PackedConfig& p) {
  const auto grouped = [&](const char* name) {
    return fmt::format("{} w{} {}", name, p.hints.bits,
                       p.hints.group < 0 ? "per row" : fmt::format("g{}", p.hints.group));
  };
  switch (p.form) {
    case StoredForm::kAwqGemm:
      return fmt::format("AWQ w{} g{}", p.hints.bits, p.hints.group);
    case StoredForm::kGptq:
    case StoredForm::kGptqV2:
      return grouped("GPTQ");
    case StoredForm::kPackQuantized:
      return grouped("compressed-tensors");
    case StoredForm::kIntQuantized:
      return "compressed-tensors W8A8";
    case StoredForm::kBnbNf4:
      return "bitsandbytes NF4";
    case StoredForm::kBnbInt8:
      return "bitsandbytes int8";
  }
  return "";
}

}  // namespace awq
