#include "checkpoint/gguf_config.h"

#include <nlohmann/json.hpp>

#include "checkpoint/gguf_gemma.h"
#include "checkpoint/gguf_rope.h"
#include "base/printable.h"

namespace awq {
namespace {

using Json = nlohmann::ordered_json;

class Metadata {
 public:
  Metadata(const GgufFile& gguf, const GgufArch& arch) : gguf_(gguf), prefix_(std::string(arch.name) + ".") {}

  // A count or size of the model: 1 .. 2^31-1.
  int64_t size(const std::string& key) const {
    const auto n = optional_size(key);
    if (!n) fail(Code::kBadFile, "{}: key '{}{}' is missing", file(), prefix_, key);
    return *n;
  }
  std::optional<int64_t> optional_size(const std::string& key) const {
    const GgufValue* v = gguf_.value(prefix_ + key);
    if (v && v->kind == GgufKind::kArray)
      fail(Code::kUnsupported, "{}: key '{}{}': expected one number for all layers, got one per layer",
           file(), prefix_, key);
    const auto n = gguf_.integer(prefix_ + key);
    if (n && (*n < 1 || *n > INT32_MAX))
      fail(Code::kBadFile, "{}: key '{}{}': expected 1 to {}, got {}", file(), prefix_, key, INT32_MAX, *n);
    return n;
  }
  double positive(const std::string& key) const {
    const auto x = gguf_.real(prefix_ + key);
    if (!x || *x <= 0)
      fail(Code::kBadFile, "{}: key '{}{}': expected a positive number", file(), prefix_, key);
    return *x;
  }
  [[noreturn]] void unsupported(const std::string& key, const std::string& what) const {
    fail(Code::kUnsupported, "{}: key '{}{}': {}", file(), prefix_, key, what);
  }
  std::string file() const { return gguf_.path().string(); }

 private:
  const GgufFile& gguf_;
  std::string prefix_;
};

void refuse_what_config_cannot_say(const GgufFile& gguf, const GgufArch& arch, const Metadata& meta) {
  const std::string prefix = std::string(arch.name) + ".";
  if (const auto experts = gguf.integer(prefix + "expert_count"); experts && *experts > 0)
    meta.unsupported("expert_count", fmt::format("{} experts, expected a dense model", *experts));
  const GgufValue* pattern = gguf.value(prefix + "attention.sliding_window_pattern");
  if (pattern != nullptr && !arch.gemma)
    meta.unsupported("attention.sliding_window_pattern", "expected the same attention in every layer");
}

// 0 where every token sees all before it.
int64_t sliding_window(const GgufFile& gguf, const GgufArch& arch, const Metadata& meta) {
  const char* key = "attention.sliding_window";
  if (arch.gemma) return 0;  // gguf_gemma.cpp reads it
  const auto window = gguf.integer(std::string(arch.name) + "." + key);
  if (!window || *window == 0) return 0;
  if (*window < 0 || *window > INT32_MAX) meta.unsupported(key, fmt::format("expected a number of tokens, got {}", *window));
  if (arch.model_type != "llama" && arch.model_type != "phi3")
    meta.unsupported(key, "expected attention over the whole context");
  return *window;
}

int64_t head_dim_of(const Metadata& meta, int64_t hidden, int64_t heads) {
  const auto key_length = meta.optional_size("attention.key_length");
  if (!key_length && hidden % heads != 0)
    fail(Code::kBadFile, "{}: expected heads to divide embedding_length, got {} and {}", meta.file(), heads,
         hidden);
  const int64_t head_dim = key_length.value_or(hidden / heads);
  if (const auto v = meta.optional_size("attention.value_length"); v && *v != head_dim)
    meta.unsupported("attention.value_length", fmt::format("expected key_length {}, got {}", head_dim, *v));
  if (head_dim % 2 != 0)
    fail(Code::kBadFile, "{}: expected an even head dimension, got {}", meta.file(), head_dim);
  return head_dim;
}

// Elements of a head that rope turns.
int64_t rotary_dim(const GgufArch& arch, const Metadata& meta, int64_t head_dim) {
  const int64_t dim = meta.optional_size("rope.dimension_count").value_or(head_dim);
  if (dim > head_dim || dim % 2 != 0 || (dim != head_dim && arch.model_type != "phi3"))
    meta.unsupported("rope.dimension_count", fmt::format("expected the whole head of {}, got {}", head_dim, dim));
  return dim;
}

int64_t vocabulary_rows(const GgufFile& gguf) {
  const GgufTensor* embedding = gguf.find("token_embd.weight");
  if (!embedding) fail(Code::kBadFile, "{}: tensor 'token_embd.weight' is missing", gguf.path().string());
  if (embedding->shape.size() != 2)
    fail(Code::kBadFile, "{}: tensor 'token_embd.weight': expected a matrix, got shape {}",
         gguf.path().string(), shape_text(embedding->shape));
  const int64_t rows = embedding->shape[0];
  const GgufValue* tokens = gguf.value("tokenizer.ggml.tokens");
  if (tokens && tokens->count > rows)
    fail(Code::kBadFile,
         "{}: key 'tokenizer.ggml.tokens': expected at most {} tokens, the rows of token_embd.weight, got {}",
         gguf.path().string(), rows, tokens->count);
  return rows;
}

void add_token_ids(Json& json, const GgufFile& gguf) {
  const std::pair<const char*, const char*> ids[] = {{"bos_token_id", "tokenizer.ggml.bos_token_id"},
                                                     {"eos_token_id", "tokenizer.ggml.eos_token_id"},
                                                     {"pad_token_id", "tokenizer.ggml.padding_token_id"}};
  for (const auto& [name, key] : ids)
    if (const auto id = gguf.integer(key)) json[name] = *id;
}

// Whether the layers' linears `names` carry biases: all of them or none, as config.json can say only that.
bool has_biases(const GgufFile& gguf, std::initializer_list<const char*> names) {
  size_t found = 0;
  for (const char* name : names) found += gguf.find(fmt::format("blk.0.{}.bias", name)) != nullptr;
  if (found != 0 && found != names.size())
    fail(Code::kUnsupported,
         "{}: tensor 'blk.0.{}.bias' or a bias beside it is missing; expected all or none",
         gguf.path().string(), *names.begin());
  return found != 0;
}

// Says which linears have biases, where config.json can say it.
void add_biases(Json& json, const GgufFile& gguf, const GgufArch& arch, bool mistral) {
  if (arch.model_type == "qwen2" || arch.model_type == "phi3") return;  // always on q, k and v; never
  const bool attention = has_biases(gguf, {"attn_q", "attn_k", "attn_v", "attn_output"});
  const bool mlp = arch.model_type == "llama" && has_biases(gguf, {"ffn_gate", "ffn_up", "ffn_down"});
  if (mistral && (attention || mlp))
    fail(Code::kUnsupported, "{}: key '{}.attention.sliding_window': expected no biases beside a window", gguf.path().string(),
         arch.name);
  if (mistral) return;
  json["attention_bias"] = attention;
  if (arch.model_type == "llama") json["mlp_bias"] = mlp;
}

void add_rope(Json& json, const Json& rope) {
  // Both spellings: transformers 5 reads rope_parameters, transformers 4 rope_theta and rope_scaling.
  json["rope_theta"] = rope["rope_theta"];
  if (rope["rope_type"] != "default") {
    Json scaling = rope;
    scaling.erase("rope_theta");
    json["rope_scaling"] = scaling;
  }
  // Phi-3's configurations have it beside the other lengths.
  if (rope["rope_type"] == "longrope")
    json["original_max_position_embeddings"] = rope["original_max_position_embeddings"];
  json["rope_parameters"] = rope;
}

}  // namespace

Json config_from_gguf(const GgufFile& gguf, const GgufArch& arch) {
  const Metadata meta(gguf, arch);
  refuse_what_config_cannot_say(gguf, arch, meta);
  const int64_t hidden = meta.size("embedding_length"), heads = meta.size("attention.head_count");
  const int64_t kv_heads = meta.optional_size("attention.head_count_kv").value_or(heads);
  const int64_t head_dim = head_dim_of(meta, hidden, heads), rotated = rotary_dim(arch, meta, head_dim);
  const int64_t window = sliding_window(gguf, arch, meta);
  const bool llama = arch.model_type == "llama", mistral = llama && window > 0;

  Json json = Json::object();
  json["architectures"] = Json::array({mistral ? "MistralForCausalLM" : std::string(arch.architecture)});
  json["model_type"] = mistral ? "mistral" : std::string(arch.model_type);
  json["vocab_size"] = vocabulary_rows(gguf);
  json["hidden_size"] = hidden;
  json["intermediate_size"] = meta.size("feed_forward_length");
  json["num_hidden_layers"] = meta.size("block_count");
  json["num_attention_heads"] = heads;
  json["num_key_value_heads"] = kv_heads;
  if (meta.optional_size("attention.key_length") || arch.explicit_head_dim) json["head_dim"] = head_dim;
  if (!arch.gemma) json["hidden_act"] = "silu";
  json["max_position_embeddings"] = meta.size("context_length");
  json["rms_norm_eps"] = meta.positive("attention.layer_norm_rms_epsilon");
  const Json rope = rope_parameters_from_gguf(gguf, arch, rotated);
  add_rope(json, rope);
  if (arch.gemma) add_gemma_keys(gguf, arch, rope, json);
  if (rotated != head_dim) json["partial_rotary_factor"] = static_cast<double>(rotated) / static_cast<double>(head_dim);
  if (mistral || arch.model_type == "phi3") json["sliding_window"] = window > 0 ? Json(window) : Json();
  if (arch.model_type == "qwen2" || arch.model_type == "qwen3") json["use_sliding_window"] = false;
  add_biases(json, gguf, arch, mistral);
  json["attention_dropout"] = 0.0;
  json["tie_word_embeddings"] = gguf.find("output.weight") == nullptr;
  add_token_ids(json, gguf);
  json["torch_dtype"] = "float16";
  json["dtype"] = "float16";
  json["use_cache"] = true;
  return json;
}

Json generation_config_from_gguf(const GgufFile& gguf) {
  Json json = {{"_from_model_config", true}};
  add_token_ids(json, gguf);
  const auto eos = gguf.integer("tokenizer.ggml.eos_token_id"),
             eot = gguf.integer("tokenizer.ggml.eot_token_id");
  if (eos && eot && *eos != *eot) json["eos_token_id"] = Json::array({*eos, *eot});
  return json;
}

}  // namespace awq
