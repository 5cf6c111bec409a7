// What serving systems demand of an AWQ checkpoint, as far as names, shapes and settings tell. Read in the
// sources of vLLM 0.33, SGLang 0.5.23, text-generation-inference (2026-01) and transformers 5.23;
// docs/formats.md, sections 0 and j, has the reasons.
#include <algorithm>
#include <array>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>

#include "checkpoint/awq_config.h"
#include "model/arch.h"
#include "model/verify.h"

namespace awq {
namespace {

using Severity = Finding::Severity;
using Json = nlohmann::ordered_json;

enum : unsigned {
  kVllm = 1,
  kSglang = 2,
  kTgi = 4,
  kTransformers = 8,
  kSubstring = kVllm | kSglang | kTgi,
  kAll = 15
};

unsigned bit_of(ServingSystem system) { return 1u << static_cast<unsigned>(system); }

// One linear of a block and whether it is stored packed.
struct Linear {
  LinearSpec spec;
  bool packed = false;
};

struct Facts {
  const Checkpoint& checkpoint;
  const ModelConfig& config;
  unsigned system = 0;
  const Json* settings = nullptr;    // quantization_config of config.json
  std::vector<Linear> linears;       // of all blocks, in order
  std::vector<std::string> skipped;  // modules_to_not_convert, as written

  bool has_setting(std::initializer_list<const char*> names) const {
    return settings != nullptr &&
           std::any_of(names.begin(), names.end(), [&](const char* n) { return settings->contains(n); });
  }
};

// Module or file, and what is wrong there.
using Report = std::function<void(const std::string& module, const std::string& text)>;

void needs_settings(const Facts& f, const Report& report) {
  if (f.settings == nullptr) report("", "expected quantization_config in config.json, found it elsewhere");
}

void needs_keys(const Facts& f, const Report& report) {
  if (f.settings == nullptr) return;
  if (!f.has_setting({"quant_method"})) report("", "quantization_config: expected 'quant_method'");
  if (!f.has_setting({"bits", "w_bit"})) report("", "quantization_config: expected 'bits'");
  if (!f.has_setting({"group_size", "q_group_size"}))
    report("", "quantization_config: expected 'group_size'");
  if (!f.has_setting({"zero_point"})) report("", "quantization_config: expected 'zero_point'");
}

void needs_method(const Facts& f, const Report& report) {
  if (f.settings != nullptr && !f.has_setting({"quant_method"}))
    report("", "quantization_config: expected 'quant_method'");
}

void needs_architectures(const Facts& f, const Report& report) {
  const auto it = f.checkpoint.config().find("architectures");
  if (it == f.checkpoint.config().end() || !it->is_array() || it->empty())
    report("", "config.json: expected a list 'architectures'");
}

void refuses_gguf(const Facts& f, const Report& report) {
  if (f.checkpoint.is_gguf()) report("", "expected safetensors, got a GGUF file");
}

void fast_group(const Facts& f, const Report& report) {
  const int group = f.checkpoint.awq()->group_size;
  constexpr std::array kFast = {-1, 32, 64, 128};
  if (std::find(kFast.begin(), kFast.end(), group) == kFast.end())
    report("",
           fmt::format("group_size: expected -1, 32, 64 or 128, got {}: only slow kernels take it", group));
}

void wants_zero_point(const Facts& f, const Report& report) {
  if (!f.checkpoint.awq()->zero_point)
    report("",
           "zero_point: expected true, got false: only slow kernels take it (write zeros of 8 and say true)");
}

void whole_groups(const Facts& f, const Report& report) {
  const int64_t group = f.checkpoint.awq()->group_size;
  for (const Linear& l : f.linears)
    if (l.packed && group > 0 && l.spec.in % group != 0)
      report(l.spec.module, fmt::format("expected inputs in whole groups of {}, got {}", group, l.spec.in));
}

void whole_words(const Facts& f, const Report& report) {
  for (const Linear& l : f.linears)
    if (l.packed && l.spec.out % 8 != 0)
      report(l.spec.module, fmt::format("expected outputs in multiples of 8, got {}", l.spec.out));
}

void wide_rows(const Facts& f, const Report& report) {
  for (const Linear& l : f.linears)
    if (l.packed && l.spec.out % 64 != 0)
      report(l.spec.module,
             fmt::format("expected outputs in multiples of 64 for the fast kernels, got {}", l.spec.out));
}

void half_scales(const Facts& f, const Report& report) {
  for (const Linear& l : f.linears) {
    const StoredTensor* scales = l.packed ? f.checkpoint.find(l.spec.module + ".scales") : nullptr;
    if (scales != nullptr && scales->dtype != "F16" && scales->dtype != "BF16")
      report(l.spec.module, fmt::format("scales: expected F16, got {}", scales->dtype));
  }
}

// Parts that are one matrix in the engine: q, k, v and gate, up.
const char* fused_name(const std::string& role) {
  if (role == "q_proj" || role == "k_proj" || role == "v_proj") return "qkv_proj";
  return role == "gate_proj" || role == "up_proj" ? "gate_up_proj" : nullptr;
}

std::string fused_module(const LinearSpec& spec) {
  const char* fused = fused_name(spec.role);
  return fused == nullptr ? spec.module
                          : spec.module.substr(0, spec.module.size() - spec.role.size()) + fused;
}

void fused_alike(const Facts& f, const Report& report) {
  std::map<std::string, const Linear*> first;
  for (const Linear& l : f.linears) {
    const auto [it, fresh] = first.emplace(fused_module(l.spec), &l);
    if (!fresh && it->second->packed != l.packed)
      report(it->first, fmt::format("expected all of its parts quantized or none, but '{}' and '{}' differ",
                                    it->second->spec.module, l.spec.module));
  }
}

void dense_head(const Facts& f, const Report& report) {
  if (f.checkpoint.is_quantized("lm_head")) report("lm_head", "expected it unquantized");
}

void dense_embedding(const Facts& f, const Report& report) {
  if (f.checkpoint.is_quantized("model.embed_tokens"))
    report("model.embed_tokens", "expected it unquantized");
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// transformers: the entry stands at the start, ending at a component, or is a suffix.
bool skipped_by_component(const std::string& module, const std::string& entry) {
  if (module.ends_with(entry)) return true;
  return module.starts_with(entry) && (module.size() == entry.size() || module[entry.size()] == '.');
}

bool is_skipped(const Facts& f, const std::string& module) {
  return std::any_of(f.skipped.begin(), f.skipped.end(), [&](const std::string& entry) {
    return f.system == kTransformers ? skipped_by_component(module, entry) : contains(module, entry);
  });
}

// An entry that catches a packed linear, or the fused matrix it becomes a part of, makes the loader look for
// dense weights.
void skips_nothing_packed(const Facts& f, const Report& report) {
  for (const Linear& l : f.linears) {
    if (!l.packed) continue;
    for (const std::string& name : {l.spec.module, fused_module(l.spec)})
      if (is_skipped(f, name)) {
        report(l.spec.module, fmt::format("modules_to_not_convert catches '{}', which is quantized", name));
        break;
      }
  }
}

void skips_all_dense(const Facts& f, const Report& report) {
  if (f.system == kVllm && f.skipped.empty()) return;  // it infers the list from the dtypes stored
  for (const Linear& l : f.linears)
    if (!l.packed && !is_skipped(f, l.spec.module))
      report(l.spec.module, "expected modules_to_not_convert to name it, since it is not quantized");
}

void skips_nothing(const Facts& f, const Report& report) {
  for (const Linear& l : f.linears)
    if (!l.packed)
      report(l.spec.module,
             "expected every linear of a block quantized: the fast loader takes no exceptions");
}

struct Row {
  ServingRule rule;
  unsigned systems;
  Severity severity;
  bool packed_only;  // applies to AWQ checkpoints
  void (*check)(const Facts&, const Report&);
};

constexpr Row kRules[] = {
    {{"container", "safetensors: GGUF is not read"}, kVllm, Severity::kError, false, refuses_gguf},
    {{"architectures", "config.json names the architecture"},
     kVllm | kSglang | kTgi,
     Severity::kError,
     false,
     needs_architectures},
    {{"config_json", "quantization_config stands in config.json"},
     kTgi | kTransformers,
     Severity::kError,
     true,
     needs_settings},
    {{"keys", "quant_method, bits, group_size and zero_point are given"},
     kSubstring,
     Severity::kError,
     true,
     needs_keys},
    {{"quant_method", "quant_method is given"}, kTransformers, Severity::kError, true, needs_method},
    {{"group_kernels", "group_size is -1, 32, 64 or 128"},
     kVllm | kSglang | kTgi,
     Severity::kNote,
     true,
     fast_group},
    {{"zero_point", "zero_point is true"}, kVllm | kSglang, Severity::kNote, true, wants_zero_point},
    {{"whole_groups", "inputs are a multiple of group_size"}, kAll, Severity::kError, true, whole_groups},
    {{"whole_words", "outputs are a multiple of 8"}, kAll, Severity::kError, true, whole_words},
    {{"wide_rows", "outputs are a multiple of 64"}, kAll, Severity::kNote, true, wide_rows},
    {{"scales_dtype", "scales have 16 bits"}, kAll, Severity::kError, true, half_scales},
    {{"fused_parts", "q, k, v and gate, up are quantized alike"},
     kVllm | kSglang | kTgi,
     Severity::kError,
     true,
     fused_alike},
    {{"lm_head", "lm_head is not quantized"}, kAll, Severity::kError, true, dense_head},
    {{"embedding", "the embedding is not quantized"}, kAll, Severity::kError, true, dense_embedding},
    {{"skip_list_packed", "modules_to_not_convert catches nothing quantized"},
     kAll,
     Severity::kError,
     true,
     skips_nothing_packed},
    {{"skip_list_dense", "modules_to_not_convert catches all that is not"},
     kVllm | kSglang | kTransformers,
     Severity::kError,
     true,
     skips_all_dense},
    {{"no_exceptions", "all linears of the blocks are quantized"},
     kTgi,
     Severity::kError,
     true,
     skips_nothing},
};

Facts facts_of(const Checkpoint& checkpoint, const ModelConfig& config, ServingSystem system) {
  Facts facts{checkpoint, config, bit_of(system), quantization_config(checkpoint.config()), {}, {}};
  const ArchSpec& arch = find_arch(config.model_type, checkpoint.path().string());
  for (int64_t layer = 0; layer < config.layers; ++layer)
    for (LinearSpec& spec : arch.block(config, layer).linears) {
      const bool packed = checkpoint.is_quantized(spec.module);
      facts.linears.push_back({std::move(spec), packed});
    }
  // As written: Checkpoint fills a missing list in.
  if (facts.settings != nullptr)
    if (const auto list = facts.settings->find("modules_to_not_convert");
        list != facts.settings->end() && list->is_array())
      facts.skipped = list->get<std::vector<std::string>>();
  return facts;
}

}  // namespace

std::optional<ServingSystem> serving_system(std::string_view name) {
  if (name == "vllm") return ServingSystem::kVllm;
  if (name == "sglang") return ServingSystem::kSglang;
  if (name == "tgi") return ServingSystem::kTgi;
  if (name == "transformers") return ServingSystem::kTransformers;
  return std::nullopt;
}

const char* serving_system_name(ServingSystem system) {
  switch (system) {
    case ServingSystem::kVllm:
      return "vLLM 0.33";
    case ServingSystem::kSglang:
      return "SGLang 0.5.23";
    case ServingSystem::kTgi:
      return "TGI (2026-01)";
    case ServingSystem::kTransformers:
      return "transformers 5.23";
  }
  return "";
}

std::vector<ServingRule> serving_rules(ServingSystem system) {
  std::vector<ServingRule> out;
  for (const Row& row : kRules)
    if (row.systems & bit_of(system)) out.push_back(row.rule);
  return out;
}

std::vector<Finding> check_serving_rules(const Checkpoint& checkpoint, const ModelConfig& config,
                                         ServingSystem system) {
  const Facts facts = facts_of(checkpoint, config, system);
  std::vector<Finding> out;
  for (const Row& row : kRules) {
    if (!(row.systems & facts.system) || (row.packed_only && !checkpoint.awq())) continue;
    int64_t found = 0;
    row.check(facts, [&](const std::string& module, const std::string& text) {
      // A note often holds for every layer: the first one stands for all.
      if (++found == 1 || row.severity == Severity::kError)
        out.push_back({row.severity, row.rule.id, "", module, text});
    });
    if (found > 1 && row.severity == Severity::kNote)
      out.back().text += fmt::format(" (and {} more)", found - 1);
  }
  return out;
}

}  // namespace awq
