#include "checkpoint/model_card.h"

#include <fmt/core.h>

#include <nlohmann/json.hpp>

namespace awq {
namespace {

// A YAML scalar: plain where that is unambiguous, else double-quoted (JSON strings are YAML strings).
std::string yaml(const std::string& text) {
  constexpr std::string_view kPlain = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._/-";
  const bool letter_first = !text.empty() && std::isalpha(static_cast<unsigned char>(text[0]));
  const bool reserved = text == "true" || text == "false" || text == "null" || text == "yes" ||
                        text == "no" || text == "on" || text == "off" || text == "y" || text == "n";
  if (letter_first && !reserved && text.find_first_not_of(kPlain) == std::string::npos) return text;
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

// Names come from elsewhere; inside a code span only a backquote or a line break could end it.
std::string code(std::string text) {
  for (char& c : text)
    if (c == '`' || c == '\n' || c == '\r') c = ' ';
  return "`" + text + "`";
}

bool is_gemm(const Manifest& m) { return m.format == "gemm"; }

std::string bits_of(const std::string& scheme) {
  const size_t end = scheme.find_first_not_of("0123456789", 1);
  return scheme.starts_with('w') ? scheme.substr(1, end == std::string::npos ? end : end - 1) : "";
}

std::string method_text(const std::string& method) {
  if (method == "rtn") return "rounding to nearest";
  if (method == "gptq") return "GPTQ ([Frantar et al., ICLR 2023](https://arxiv.org/abs/2210.17323))";
  if (method == "nf4") return "NF4 ([Dettmers et al., 2023](https://arxiv.org/abs/2305.14314))";
  if (method == "smoothquant") return "SmoothQuant ([Xiao et al., ICML 2023](https://arxiv.org/abs/2211.10438))";
  if (method == "llm-int8") return "LLM.int8 ([Dettmers et al., 2022](https://arxiv.org/abs/2208.07339))";
  if (method == "awq" || method == "autoawq")
    return "Activation-aware Weight Quantization ([Lin et al., MLSys "
           "2024](https://arxiv.org/abs/2306.00978))";
  return code(method);
}

std::string front_matter(const CardFacts& facts, const Manifest& m) {
  std::string out = "---\n";
  out += fmt::format("base_model: {}\nbase_model_relation: quantized\n", yaml(facts.base_model));
  if (!facts.license.empty()) out += fmt::format("license: {}\n", yaml(facts.license));
  out += "library_name: transformers\npipeline_tag: text-generation\ntags:\n";
  if (is_gemm(m) || m.method.find("awq") != std::string::npos) out += "- awq\n";
  if (const std::string bits = bits_of(m.scheme); !bits.empty()) out += fmt::format("- {}-bit\n", bits);
  return out + "- quantized\n---\n\n";
}

std::string form_text(const std::string& format) {
  if (format == "gemm")
    return ". The files are in AutoAWQ's \"gemm\" layout, which vLLM, SGLang and transformers load as it is.\n\n";
  if (format == "gptq" || format == "gptq-v2") return ". The files are in GPTQ's layout, " + code(format) + ".\n\n";
  if (format == "pack-quantized" || format == "int-quantized")
    return ". The files are in the layout of compressed-tensors, " + code(format) + ", which vLLM and SGLang load as it is.\n\n";
  if (format == "bnb-nf4" || format == "bnb-int8")
    return ". The files are in the layout of bitsandbytes, which transformers loads with that package.\n\n";
  return ". The rounded weights are stored as plain tensors, so the files are as large as unquantized ones.\n\n";
}

std::string what_it_is(const CardFacts& facts, const Manifest& m) {
  std::string out =
      fmt::format("# {}\n\n{}, quantized by {}: {} linear layers at {}", facts.name, code(facts.base_model),
                  method_text(m.method), m.layers.size(), code(m.scheme));
  if (facts.bits_per_weight > 0)
    out += fmt::format(", {:.2f} bits per weight with scales and zero points", facts.bits_per_weight);
  out += form_text(m.format);
  if (!m.source.format.empty()) out += fmt::format("The source was stored as {}.\n\n", m.source.format);
  return out;
}

std::string results(const Manifest& m) {
  if (!m.check) return "";
  const Manifest::Check& c = *m.check;
  const double rise = c.perplexity_source > 0 ? 100 * (c.perplexity / c.perplexity_source - 1) : 0;
  std::string out = fmt::format("## Check\n\nAgainst the source, on {} tokens of {}:\n\n", c.tokens, c.text);
  out += "| | source | this model |\n|---|---|---|\n";
  out +=
      fmt::format("| perplexity | {:.2f} | {:.2f} ({:+.1f} %) |\n", c.perplexity_source, c.perplexity, rise);
  out += fmt::format("| KL divergence from the source, nats per token | 0 | {:.4f} ± {:.4f} |\n", c.kl,
                     c.kl_ci95);
  out += fmt::format("| same most likely next token | 100 % | {:.1f} % |\n\n", 100 * c.top1_agreement);
  if (!c.worst.empty()) out += fmt::format("Largest relative error of a layer: {}. ", code(c.worst));
  return out + fmt::format("Every layer's error and the SHA-256 of every file stand in {}.\n\n",
                           code(kManifestFile));
}

bool chosen_automatically(const Manifest& m) {
  return std::find(m.options.begin(), m.options.end(), std::pair<std::string, std::string>("samples", "auto")) != m.options.end();
}

std::string provenance(const CardFacts& facts, const Manifest& m) {
  std::string out = "## How it was made\n\n";
  out += fmt::format("```sh\n{}\n```\n\n", facts.command);
  out += fmt::format("- tool: {}\n- source fingerprint: {}\n", m.tool, code(m.source.fingerprint));
  if (const auto& c = m.calibration)
    out += fmt::format("- calibration: {}, {} samples{}, {} tokens, SHA-256 {}\n", code(c->name), c->samples,
                       chosen_automatically(m) ? " (as many as --samples auto found to be enough)" : "", c->tokens, code(c->sha256));
  return out + "\n";
}

// What transformers asks for beside itself.
std::string packages_of(const std::string& format) {
  if (format == "gemm" || format == "gptq" || format == "gptq-v2") return "the packages `gptqmodel` and `accelerate`";
  if (format == "pack-quantized" || format == "int-quantized") return "the package `compressed-tensors`";
  if (format == "bnb-nf4" || format == "bnb-int8") return "the packages `bitsandbytes` and `accelerate`";
  return "";
}

std::string how_to_load(const CardFacts& facts, const Manifest& m) {
  std::string out = "## How to run it\n\n```sh\n";
  out +=
      fmt::format("vllm serve ./{0}\nawq generate {0} -p \"The capital of France is\"\n```\n\n", facts.name);
  out += fmt::format(
      "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n"
      "tokenizer = AutoTokenizer.from_pretrained(\"./{0}\")\n"
      "model = AutoModelForCausalLM.from_pretrained(\"./{0}\", device_map=\"auto\")\n```\n",
      facts.name);
  if (const std::string packages = packages_of(m.format); !packages.empty())
    out += fmt::format("\ntransformers needs {} for this format.\n", packages);
  return out;
}

}  // namespace

std::string model_card(const CardFacts& facts, const Manifest& manifest) {
  return front_matter(facts, manifest) + what_it_is(facts, manifest) + results(manifest) +
         provenance(facts, manifest) + how_to_load(facts, manifest);
}

}  // namespace awq
