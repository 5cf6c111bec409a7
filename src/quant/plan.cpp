#include "quant/plan.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

namespace awq {
namespace {

constexpr int kAutoGroups[] = {128, 64, 32};

constexpr Scheme kAsAsked{CodeKind::kAffine, 0, 0};
constexpr Scheme kNf4Blocks{CodeKind::kNf4, 4, 64, ZeroKind::kNone};
constexpr Scheme kInt8{CodeKind::kAffine, 8, -1, ZeroKind::kNone, Activations::kInt8Token};
constexpr float kOutliers = 6;  // LLM.int8's threshold (Dettmers et al. 2022, section 3.2)
constexpr Scheme kInt8Outliers{CodeKind::kAffine, 8, -1, ZeroKind::kNone, Activations::kInt8Outliers, kOutliers};

void check_options(const QuantizeOptions& o) {
  const Method& method = find_method(o.method);
  if (o.quality != "fast" && o.quality != "best") fail(Code::kBadArgument, "--quality {}: expected fast or best", o.quality);
  if (o.bits != 0 && (o.bits < 2 || o.bits > 8)) fail(Code::kBadArgument, "--bits {}: expected 2 to 8", o.bits);
  if (o.group && *o.group != -1 && *o.group < 8)
    fail(Code::kBadArgument, "--group-size {}: expected auto, -1 (one group per output) or at least 8", *o.group);
  const Scheme& fixed = method.fixed;
  if (fixed.bits == 0) return;
  if (o.bits != 0 && o.bits != fixed.bits) fail(Code::kBadArgument, "--method {} has {} bits, got --bits {}", o.method, fixed.bits, o.bits);
  if (o.group && *o.group != fixed.group)
    fail(Code::kBadArgument, "--method {} has groups of {}, got --group-size {}", o.method,
         fixed.group < 0 ? "a whole row (-1)" : std::to_string(fixed.group), *o.group);
}

std::string skip_reason(const LinearSpec& linear, const QuantizeOptions& options, const QuantizePlan& plan) {
  for (const std::string& name : options.skip)
    if (names_component(linear.module, name)) return "--skip " + name;
  if (plan.scheme.code == CodeKind::kNf4 && linear.in % plan.scheme.group != 0)
    return fmt::format("{} inputs are not a multiple of {}", linear.in, plan.scheme.group);
  return plan.form ? form_refusal(*plan.form, plan.scheme, linear.out, linear.in) : "";
}

// Loaders fuse q with k and v, and gate with up: either all parts of such a group are quantized or none.
void unify_fused(std::vector<PlannedLinear>& block) {
  for (const Site site : {Site::kAttentionIn, Site::kMlpIn}) {
    const PlannedLinear* left_out = nullptr;
    for (const PlannedLinear& l : block)
      if (l.spec.reads == site && !l.quantized) left_out = &l;
    if (left_out == nullptr) continue;
    const std::string reason = "loaders fuse it with " + left_out->spec.role + ", which is left out";
    for (PlannedLinear& l : block)
      if (l.spec.reads == site && l.quantized) l.quantized = false, l.skipped_because = reason;
  }
}

int choose_group(const QuantizeOptions& options, const std::vector<std::vector<PlannedLinear>>& blocks) {
  std::set<int64_t> widths;
  for (const auto& block : blocks)
    for (const PlannedLinear& l : block)
      if (l.quantized) widths.insert(l.spec.in);
  const auto divides = [&](int g) { return std::all_of(widths.begin(), widths.end(), [g](int64_t w) { return w % g == 0; }); };
  int automatic = 0;
  for (int g : kAutoGroups)
    if (automatic == 0 && divides(g)) automatic = g;
  if (!options.group) {
    if (automatic != 0) return automatic;
    fail(Code::kBadArgument, "--group-size auto: none of 128, 64, 32 divides the inputs of all linears; use --group-size -1");
  }
  if (*options.group < 0 || divides(*options.group)) return *options.group;
  for (const auto& block : blocks)
    for (const PlannedLinear& l : block)
      if (l.quantized && l.spec.in % *options.group != 0)
        fail(Code::kBadArgument, "group size {} does not divide {}'s {} inputs: use --group-size {}", *options.group, l.spec.role,
             l.spec.in, automatic != 0 ? fmt::format("auto or {}", automatic) : "-1");
  return *options.group;
}

// The stored form for a scheme whose group size is not known yet; empty for plain tensors.
std::optional<StoredForm> choose_form(const QuantizeOptions& o, const Scheme& scheme) {
  const bool int8 = scheme.activations == Activations::kInt8Token;
  const auto pick = [&]() -> std::optional<StoredForm> {
    if (o.format == "auto") {
      if (scheme.code == CodeKind::kNf4) return StoredForm::kBnbNf4;
      if (scheme.activations == Activations::kInt8Outliers) return StoredForm::kBnbInt8;
      if (int8) return StoredForm::kIntQuantized;
      return scheme.bits == 4 ? StoredForm::kAwqGemm : StoredForm::kPackQuantized;
    }
    if (o.format == "gemm") return StoredForm::kAwqGemm;
    if (o.format == "gptq") return scheme.zero == ZeroKind::kNone ? StoredForm::kGptq : StoredForm::kGptqV2;
    if (o.format == "gptq-v2") return StoredForm::kGptqV2;
    if (o.format == "compressed-tensors") return int8 ? StoredForm::kIntQuantized : StoredForm::kPackQuantized;
    if (o.format == "bnb-nf4") return StoredForm::kBnbNf4;
    if (o.format == "bnb-int8") return StoredForm::kBnbInt8;
    if (o.format == "dense") return std::nullopt;
    fail(Code::kBadArgument, "--format {}: expected auto, gemm, gptq, gptq-v2, compressed-tensors, bnb-nf4, bnb-int8 or dense", o.format);
  };
  const std::optional<StoredForm> form = pick();
  if (!form && scheme.activations != Activations::kFloat)
    fail(Code::kBadArgument, "--format dense: --method {} quantizes activations too, which plain tensors do not say", o.method);
  constexpr int64_t kFits = 4096;  // a size that no form refuses
  if (form)
    if (const std::string reason = form_refusal(*form, scheme, kFits, kFits); !reason.empty())
      fail(Code::kBadArgument, "--format {}: {}", o.format, reason);
  return form;
}

// Bits per weight on disk, scales and zero points included; of plain tensors those the codes would take packed.
double stored_bits(const QuantizePlan& plan, const LinearSpec& l) {
  const double weights = static_cast<double>(l.out * l.in);
  if (!plan.form) {
    const int zero_bits = plan.scheme.code == CodeKind::kNf4 ? 0 : plan.scheme.bits;
    return plan.scheme.bits + (16.0 + zero_bits) / static_cast<double>(plan.scheme.group_size(l.in));
  }
  double bytes = 0;
  for (const StoredPart& part : stored_parts(*plan.form, plan.scheme, l.out, l.in, DType::kF16)) bytes += static_cast<double>(part.bytes());
  return 8 * bytes / weights;
}

int64_t memory_estimate(const Checkpoint& checkpoint, const QuantizePlan& plan, int64_t tokens) {
  const ModelConfig& c = plan.config;
  int64_t block_weights = 0, widest = 0;
  for (const PlannedLinear& l : plan.blocks.front()) {
    block_weights += l.spec.out * l.spec.in;
    widest = std::max(widest, l.spec.in);
  }
  const StoredTensor* embed = checkpoint.find(kEmbedName);
  const int64_t table = c.vocab * c.hidden * (embed != nullptr && (embed->dtype == "BF16" || embed->dtype == "F16") ? 2 : 4);
  const int64_t tables = table * (c.tied ? 1 : 2) + 2 * c.vocab * c.hidden * (c.tied ? 1 : 2);
  const int64_t states = tokens * c.hidden * 4;
  const int64_t heads_width = c.heads * c.head_dim;
  const int64_t grams = 4 * (2 * c.hidden * c.hidden + heads_width * heads_width + 2 * c.intermediate * c.intermediate);
  const int64_t scratch = 2048 * 4 * (4 * c.hidden + 4 * c.intermediate) + 2 * 256 * c.vocab * 4;
  return (int64_t{80} << 20) + tables + states + grams + scratch + block_weights * 4 * 3;
}

// A tensor that does not fit must be named now, not when its block's turn comes.
void require_tensors(const Checkpoint& checkpoint, const ArchSpec& arch, const ModelConfig& c) {
  checkpoint.require_shape(kEmbedName, {c.vocab, c.hidden});
  for (int64_t i = 0; i < c.layers; ++i) {
    const BlockSpec spec = arch.block(c, i);
    for (const NormSpec& norm : spec.norms(c)) checkpoint.require_shape(norm.name + ".weight", {norm.dim});
    for (const LinearSpec& l : spec.linears) {
      checkpoint.require_shape(l.module + ".weight", {l.out, l.in});
      if (l.bias) checkpoint.require_shape(l.module + ".bias", {l.out});
    }
  }
  checkpoint.require_shape(kFinalNormName, {c.hidden});
  if (!c.tied) checkpoint.require_shape(kHeadName, {c.vocab, c.hidden});
}

}  // namespace

const std::vector<Method>& methods() {
  static const std::vector<Method> kMethods = {
      {"awq", true, kAsAsked},        {"autoawq", true, kAsAsked},    {"gptq", true, kAsAsked},
      {"rtn", false, kAsAsked},       {"nf4", false, kNf4Blocks},     {"smoothquant", true, kInt8},
      {"llm-int8", false, kInt8Outliers}};
  return kMethods;
}

const Method& find_method(const std::string& name) {
  std::string known;
  for (const Method& m : methods()) {
    if (name == m.name) return m;
    known += (known.empty() ? "" : ", ") + std::string(m.name);
  }
  fail(Code::kBadArgument, "--method {}: expected one of {}", name, known);
}

int planned_bits(const QuantizeOptions& options) {
  if (options.bits != 0) return options.bits;
  const int fixed = find_method(options.method).fixed.bits;
  return fixed != 0 ? fixed : 4;
}

bool names_component(const std::string& module, const std::string& name) {
  const std::string padded = "." + module + ".", wanted = "." + name + ".";
  return !name.empty() && padded.find(wanted) != std::string::npos;
}

QuantizePlan plan_quantize(const Checkpoint& checkpoint, const QuantizeOptions& options, int64_t tokens) {
  check_options(options);
  const std::string where = checkpoint.path().string();
  if (checkpoint.packing())
    fail(Code::kBadArgument, "{}: expected an unquantized checkpoint, got one that is already quantized ({})", where,
         checkpoint.format().name);
  QuantizePlan plan;
  plan.config = parse_model_config(checkpoint.config(), where);
  plan.scheme = find_method(options.method).fixed;
  const bool asked = plan.scheme.bits == 0;
  if (asked) plan.scheme = {CodeKind::kAffine, planned_bits(options), -1, options.symmetric ? ZeroKind::kNone : ZeroKind::kInteger};
  plan.form = choose_form(options, plan.scheme);
  plan.format = plan.form ? form_name(*plan.form) : "dense";
  const ArchSpec& arch = find_arch(plan.config.model_type, where);
  require_tensors(checkpoint, arch, plan.config);
  std::set<std::string> unused(options.skip.begin(), options.skip.end());
  for (int64_t i = 0; i < plan.config.layers; ++i) {
    std::vector<PlannedLinear> block;
    for (const LinearSpec& spec : arch.block(plan.config, i).linears) {
      const std::string reason = skip_reason(spec, options, plan);
      block.push_back({spec, reason.empty(), reason});
      for (const std::string& name : options.skip)
        if (names_component(spec.module, name)) unused.erase(name);
    }
    unify_fused(block);
    plan.blocks.push_back(std::move(block));
  }
  unused.erase("lm_head");
  if (!unused.empty()) fail(Code::kBadArgument, "--skip {}: names no linear of this model", *unused.begin());

  if (asked) plan.scheme.group = choose_group(options, plan.blocks);
  double bits = 0;
  for (const auto& block : plan.blocks)
    for (const PlannedLinear& l : block) {
      if (!l.quantized) {
        plan.not_converted.push_back(l.spec.module);
        continue;
      }
      ++plan.quantized_linears;
      plan.quantized_weights += l.spec.out * l.spec.in;
      bits += stored_bits(plan, l.spec) * static_cast<double>(l.spec.out * l.spec.in);
    }
  if (plan.quantized_linears == 0) fail(Code::kBadArgument, "nothing is left to quantize: --skip names every linear");
  plan.bits_per_weight = bits / static_cast<double>(plan.quantized_weights);
  plan.weight_bytes = planned_bytes(output_plan(checkpoint, plan, DType::kF16));
  for (const StoredTensor& t : checkpoint.tensors()) plan.source_bytes += t.bytes;
  plan.memory_bytes = memory_estimate(checkpoint, plan, tokens);
  return plan;
}

OutputPlan output_plan(const Checkpoint& checkpoint, const QuantizePlan& plan, DType dtype) {
  const ModelConfig& c = plan.config;
  const ArchSpec& arch = find_arch(c.model_type, checkpoint.path().string());
  OutputPlan out;
  out.tensors.push_back({kEmbedName, dtype, {c.vocab, c.hidden}});
  for (int64_t i = 0; i < c.layers; ++i) {
    const BlockSpec spec = arch.block(c, i);
    for (const NormSpec& norm : spec.norms(c)) out.tensors.push_back({norm.name + ".weight", dtype, {norm.dim}});
    for (const PlannedLinear& l : plan.blocks[i]) {
      const LinearSpec& s = l.spec;
      if (l.quantized && plan.form) {
        for (StoredPart& part : stored_parts(*plan.form, plan.scheme, s.out, s.in, dtype))
          out.tensors.push_back({s.module + part.suffix, part.dtype, std::move(part.shape)});
      } else {
        out.tensors.push_back({s.module + ".weight", dtype, {s.out, s.in}});
      }
      if (s.bias) out.tensors.push_back({s.module + ".bias", dtype, {s.out}});
    }
  }
  out.tensors.push_back({kFinalNormName, dtype, {c.hidden}});
  if (!c.tied) out.tensors.push_back({kHeadName, dtype, {c.vocab, c.hidden}});
  return out;
}

}  // namespace awq
