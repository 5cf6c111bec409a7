// GGUF architectures and their tensor names in Hugging Face terms (docs/formats.md, section h).
#pragma once
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace awq {

struct GgufName {
  std::string_view gguf;  // "attn_q"
  std::string_view hf;    // "self_attn.q_proj"
};

struct GgufArch {
  std::string_view name;          // general.architecture
  std::string_view model_type;    // config.json; for `llama` with a sliding window: mistral
  std::string_view architecture;  // config.json, architectures[0]
  // llama.cpp rotates neighbouring rows for this architecture, so its converter reordered the rows of q and k
  // per head: stored row 2i is Hugging Face row i, stored row 2i+1 is row i + head_dim/2.
  bool permuted_qk;
  std::span<const GgufName> block;  // below "blk.N." and "model.layers.N."
  bool explicit_head_dim = false;   // configurations that leave head_dim out mean another value than hidden / heads
  bool gemma = false;               // norms are stored as 1 + w; what else configurations say is in gguf_gemma.h
};

const GgufArch* find_gguf_arch(std::string_view name);
std::string known_gguf_archs();  // "llama, qwen2, ..."

// Tensors that become part of the configuration, not weights: rope's divisors.
bool is_rope_tensor(std::string_view gguf_name);
inline constexpr const char* kRopeFreqs = "rope_freqs.weight";              // llama3's, one per pair
inline constexpr const char* kRopeFactorsLong = "rope_factors_long.weight";  // longrope's
inline constexpr const char* kRopeFactorsShort = "rope_factors_short.weight";

// "blk.3.attn_q.weight" -> "model.layers.3.self_attn.q_proj.weight"; empty when the architecture has no such
// tensor.
std::optional<std::string> hf_tensor_name(const GgufArch& arch, std::string_view gguf_name);

}  // namespace awq
