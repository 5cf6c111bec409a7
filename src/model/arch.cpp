#include "model/arch.h"

#include "base/error.h"

namespace awq {

// src/model/arch/*.cpp: one declaration each.
BlockSpec llama_block(const ModelConfig& config, int64_t layer);

namespace {

// qwen2 differs from llama only in its biases, which ModelConfig says.
constexpr ArchSpec kArchs[] = {
    {"llama", llama_block},
    {"qwen2", llama_block},
};

}  // namespace

const ArchSpec& find_arch(const std::string& model_type, const std::string& where) {
  for (const ArchSpec& arch : kArchs)
    if (model_type == arch.model_type) return arch;
  std::string known;
  for (const ArchSpec& arch : kArchs) known += (known.empty() ? "" : ", ") + std::string(arch.model_type);
  fail(Code::kUnsupported, "{}: model_type '{}' is not supported (known: {})", where, model_type, known);
}

std::vector<std::string> known_archs() {
  std::vector<std::string> names;
  for (const ArchSpec& arch : kArchs) names.emplace_back(arch.model_type);
  return names;
}

const char* site_name(Site site) {
  switch (site) {
    case Site::kAttentionIn: return "attention_in";
    case Site::kAttentionOut: return "attention_out";
    case Site::kMlpIn: return "mlp_in";
    case Site::kMlpDown: return "mlp_down";
  }
  return "?";
}

const LinearSpec& BlockSpec::linear(const std::string& role) const {
  for (const LinearSpec& l : linears)
    if (l.role == role) return l;
  fail(Code::kInternal, "internal error: block {} has no linear '{}'", prefix, role);
}

}  // namespace awq
