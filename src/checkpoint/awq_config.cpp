#include "checkpoint/awq_config.h"

#include <algorithm>
#include <initializer_list>
#include <nlohmann/json.hpp>

#include "checkpoint/json_file.h"
#include "base/printable.h"

namespace awq {
namespace {

using Json = nlohmann::ordered_json;

// One JSON object with quantization settings and the words that name it in errors.
class Settings {
 public:
  Settings(const Json& json, std::string where) : json_(json), where_(std::move(where)) {}

  // The first of several spellings that is present and not null.
  const Json* find(std::initializer_list<const char*> names) const {
    for (const char* name : names)
      if (const auto it = json_.find(name); it != json_.end() && !it->is_null()) return &*it;
    return nullptr;
  }
  std::optional<int> integer(std::initializer_list<const char*> names) const {
    const Json* v = find(names);
    if (!v) return std::nullopt;
    if (!v->is_number_integer() || *v < -1 || *v > 1 << 20) wrong(*names.begin(), "an integer", *v);
    return v->get<int>();
  }
  std::optional<bool> boolean(std::initializer_list<const char*> names) const {
    const Json* v = find(names);
    if (!v) return std::nullopt;
    if (!v->is_boolean()) wrong(*names.begin(), "true or false", *v);
    return v->get<bool>();
  }
  std::optional<std::string> lower_text(std::initializer_list<const char*> names) const {
    const Json* v = find(names);
    if (!v) return std::nullopt;
    if (!v->is_string()) wrong(*names.begin(), "a string", *v);
    std::string text = v->get<std::string>();
    std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) {
      return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : static_cast<char>(c);
    });
    return text;
  }
  std::vector<std::string> names(const char* key) const {
    const Json* v = find({key});
    if (!v) return {};
    if (!v->is_array()) wrong(key, "a list of names or null", *v);
    std::vector<std::string> out;
    for (const Json& name : *v) {
      if (!name.is_string()) wrong(key, "a list of names", name);
      out.push_back(name.get<std::string>());
    }
    return out;
  }
  [[noreturn]] void wrong(const char* key, const char* expected, const Json& got) const {
    fail(Code::kBadFile, "{}: {}: expected {}, got {}", where_, key, expected,
         printable(got.dump(-1, ' ', true)));
  }
  const std::string& where() const { return where_; }

 private:
  const Json& json_;
  std::string where_;
};

// Files written before `quant_method` existed: AutoAWQ's have w_bit or q_group_size, AutoGPTQ's desc_act.
std::string method_of(const Settings& s) {
  if (const auto method = s.lower_text({"quant_method"})) return *method;
  if (s.find({"w_bit", "q_group_size"})) return "awq";
  return s.find({"desc_act"}) ? "gptq" : s.find({"zero_point"}) ? "awq" : "";
}

}  // namespace

AwqConfig parse_awq_config(const Json& settings, const std::string& where) {
  if (!settings.is_object()) fail(Code::kBadFile, "{}: expected an object, got {}", where, settings.type_name());
  const Settings s(settings, where);
  const std::string method = method_of(s);
  if (method != "awq")
    fail(Code::kUnsupported,
         "{}: already quantized with quant_method '{}'; expected an unquantized or an 'awq' checkpoint",
         s.where(), printable(method, 40));
  AwqConfig awq;
  awq.bits = s.integer({"bits", "w_bit"}).value_or(4);
  awq.group_size = s.integer({"group_size", "q_group_size"}).value_or(128);
  awq.zero_point = s.boolean({"zero_point"}).value_or(true);
  awq.version = s.lower_text({"version", "format"}).value_or("gemm");
  awq.modules_to_not_convert = s.names("modules_to_not_convert");
  if (awq.bits != 4)
    fail(Code::kUnsupported, "{}: expected awq weights of 4 bits, got {}", s.where(), awq.bits);
  if (awq.group_size == 0 || awq.group_size < -1)
    fail(Code::kBadFile, "{}: group_size: expected a positive number or -1, got {}", s.where(),
         awq.group_size);
  if (awq.version != "gemm")
    fail(Code::kUnsupported, "{}: expected awq version 'gemm', got '{}'", s.where(),
         printable(awq.version, 40));
  return awq;
}

const Json* quantization_config(const Json& config) {
  const auto inside = [](const Json& object) -> const Json* {
    const auto it = object.find("quantization_config");
    return it == object.end() || it->is_null() ? nullptr : &*it;
  };
  if (const Json* found = inside(config)) return found;
  const auto text = config.find("text_config");
  return text != config.end() && text->is_object() ? inside(*text) : nullptr;
}

std::optional<AwqConfig> read_awq_config(const std::filesystem::path& dir, const Json& config,
                                         bool has_packed_weights) {
  if (const Json* found = quantization_config(config))
    return parse_awq_config(*found, (dir / "config.json").string() + ": quantization_config");
  if (!has_packed_weights) return std::nullopt;  // a stray file beside dense weights means nothing
  for (const char* name : {"quant_config.json", "quantize_config.json"}) {
    if (!std::filesystem::exists(dir / name)) continue;
    const Json json = read_json_object(dir / name);
    return parse_awq_config(json, (dir / name).string());
  }
  return std::nullopt;
}

}  // namespace awq
