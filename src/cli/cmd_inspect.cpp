// awq inspect: what a checkpoint is, from its headers alone.
#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "base/system.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/hub_cache.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/text_layout.h"
#include "model/arch.h"

namespace awq::cli {
namespace {

using Json = nlohmann::ordered_json;

// Parameters of the model, packed codes counted as the weights they hold.
int64_t parameters(const Checkpoint& checkpoint) {
  int64_t total = 0;
  for (const StoredTensor& t : checkpoint.tensors()) total += checkpoint.weights_in(t);
  return total;
}

std::string count_text(int64_t n) {
  if (n >= 1000000000) return fmt::format("{:.2f} billion", static_cast<double>(n) / 1e9);
  if (n >= 1000000) return fmt::format("{:.1f} million", static_cast<double>(n) / 1e6);
  return fmt::format("{}", n);
}

int64_t stored_bytes(const Checkpoint& checkpoint) {
  int64_t total = 0;
  for (const StoredTensor& t : checkpoint.tensors()) total += t.bytes;
  return total;
}

Json rope_json(const RopeConfig& rope) {
  Json json = {{"type", rope_type_name(rope.type)}, {"theta", rope.theta}, {"dim", rope.dim}};
  if (rope.type == RopeType::kDefault) return json;
  json["factor"] = rope.factor;
  if (rope.type == RopeType::kLlama3) {
    json["low_freq_factor"] = rope.low_freq_factor;
    json["high_freq_factor"] = rope.high_freq_factor;
  }
  if (rope.type != RopeType::kLinear) json["original_max_position"] = rope.original_max_position;
  return json;
}

std::string rope_text(const RopeConfig& rope, int64_t head_dim) {
  std::string text = fmt::format("{}, theta {}", rope_type_name(rope.type), rope.theta);
  if (rope.dim != head_dim) text += fmt::format(", {} of {} elements", rope.dim, head_dim);
  if (rope.type == RopeType::kDefault) return text;
  text += fmt::format(", factor {}", rope.factor);
  if (rope.type == RopeType::kLlama3)
    text += fmt::format(", frequency factors {} to {}", rope.low_freq_factor, rope.high_freq_factor);
  if (rope.type != RopeType::kLinear)
    text += fmt::format(", original context {}", rope.original_max_position);
  return text;
}

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const auto& word : words) text += (text.empty() ? "" : ", ") + word;
  return text;
}

std::string quantization_text(const Checkpoint& checkpoint) {
  const PackedConfig& packing = *checkpoint.packing();
  std::string text = checkpoint.format().name;
  if (const auto& awq = checkpoint.awq())
    text = fmt::format("AWQ {}, {} bits, group size {}, {}", awq->version, awq->bits, awq->group_size,
                       awq->zero_point ? "with zero points" : "symmetric");
  if (!packing.left_dense.empty()) text += ", not " + joined(packing.left_dense);
  return text;
}

Json quantization_json(const Checkpoint& checkpoint) {
  if (!checkpoint.packing()) return {};
  const PackedConfig& packing = *checkpoint.packing();
  if (const auto& awq = checkpoint.awq())
    return {{"method", "awq"},
            {"version", awq->version},
            {"bits", awq->bits},
            {"group_size", awq->group_size},
            {"zero_point", awq->zero_point},
            {"modules_to_not_convert", awq->modules_to_not_convert}};
  return {{"form", form_name(packing.form)},
          {"bits", packing.hints.bits},
          {"group_size", packing.hints.group},
          {"modules_to_not_convert", packing.left_dense}};
}

Json model_json(const ModelConfig& c) {
  return {{"model_type", c.model_type},     {"layers", c.layers}, {"hidden", c.hidden},
          {"intermediate", c.intermediate}, {"heads", c.heads},   {"kv_heads", c.kv_heads},
          {"head_dim", c.head_dim},         {"vocab", c.vocab},   {"sliding_window", c.sliding_window},
          {"context", c.max_position},      {"tied", c.tied},     {"rope", rope_json(c.rope)}};
}

void print_as_json(const Checkpoint& checkpoint, const ModelConfig& config, const std::string& path,
                   bool tensors) {
  const SourceFormat format = checkpoint.format();
  Json json = {{"schema", "awq.inspect/1"},
               {"path", path},
               {"container", checkpoint.is_gguf() ? "gguf" : "safetensors"},
               {"format", format.name},
               {"quantized", format.quantized},
               {"bits_per_weight", format.bits_per_weight},
               {"parameters", parameters(checkpoint)},
               {"bytes", stored_bytes(checkpoint)},
               {"tensors", checkpoint.tensors().size()}};
  json.update(model_json(config));
  json["quantization"] = quantization_json(checkpoint);
  json["license"] = checkpoint.license();
  if (tensors) {
    json["tensor_list"] = Json::array();
    for (const StoredTensor& t : checkpoint.tensors())
      json["tensor_list"].push_back({{"name", t.name},
                                     {"stored_name", t.stored_name},
                                     {"dtype", t.dtype},
                                     {"shape", t.shape},
                                     {"file", t.file.filename().string()},
                                     {"offset", t.offset},
                                     {"bytes", t.bytes}});
  }
  print_json(json);
}

void print_summary(const Checkpoint& checkpoint, const ModelConfig& c, const std::string& path) {
  const SourceFormat format = checkpoint.format();
  const auto line = [](const char* name, const std::string& text) {
    print_line(fmt::format("{:<13} {}", name, text));
  };
  line("path", path);
  line("format", fmt::format("{} in {}", format.name, checkpoint.is_gguf() ? "GGUF" : "safetensors"));
  line("architecture",
       fmt::format("{}, {} layers, hidden {}, MLP {}", c.model_type, c.layers, c.hidden, c.intermediate));
  line("attention",
       fmt::format("{} heads of {}, {} key/value heads{}{}", c.heads, c.head_dim, c.kv_heads,
                   c.qk_norm ? ", normalised queries and keys" : "",
                   c.sliding_window > 0 ? fmt::format(", window of {} tokens", c.sliding_window) : ""));
  line("rope", rope_text(c.rope, c.head_dim));
  line("context", fmt::format("{} tokens", c.max_position));
  line("vocabulary",
       fmt::format("{} tokens, head {}", c.vocab, c.tied ? "tied to the embedding" : "of its own"));
  line("parameters", count_text(parameters(checkpoint)));
  line("size", fmt::format("{} in {} tensors, {:.2f} bits per weight of the linears",
                           human_bytes(static_cast<double>(stored_bytes(checkpoint))),
                           checkpoint.tensors().size(), format.bits_per_weight));
  line("quantization", checkpoint.packing() ? quantization_text(checkpoint)
                       : format.quantized   ? format.name
                                            : "none");
  if (!checkpoint.license().empty()) line("license", checkpoint.license());
}

void print_tensors(const Checkpoint& checkpoint) {
  report::Table table{"", {{"name"}, {"dtype"}, {"shape"}, {"bytes", true}}, {}};
  for (const StoredTensor& t : checkpoint.tensors())
    table.rows.push_back({t.name, t.dtype, shape_text(t.shape), fmt::format("{}", t.bytes)});
  print_line("");
  print_line(text_table(table));
}

int run(const std::string& path, bool tensors, const Context& context) {
  const auto checkpoint = Checkpoint::open(resolve_model(path));
  const ModelConfig config = parse_model_config(checkpoint->config(), checkpoint->path().string());
  if (context.json) {
    print_as_json(*checkpoint, config, path, tensors);
    return 0;
  }
  print_summary(*checkpoint, config, path);
  if (tensors) print_tensors(*checkpoint);
  return 0;
}

}  // namespace

void add_inspect(CLI::App& app, Context& context) {
  struct Options {
    std::string path;
    bool tensors = false;
  };
  const auto options = std::make_shared<Options>();
  auto& command = add_command(app, context,
                              {"inspect", "Say what a checkpoint is, from its headers",
                               "awq inspect ./qwen-awq\nawq inspect model.gguf --tensors"},
                              [options, &context] { return run(options->path, options->tensors, context); });
  command.add_option("PATH", options->path, "folder, .gguf file or org/name")->required();
  command.add_flag("--tensors", options->tensors, "list name, dtype, shape and bytes of every tensor");
}

}  // namespace awq::cli
