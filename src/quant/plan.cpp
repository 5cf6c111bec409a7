#include "quant/plan.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <tuple>

#include "base/printable.h"
#include "model/block_backward.h"

namespace awq {
namespace {

constexpr int kAutoGroups[] = {128, 64, 32};
constexpr int kMostIterations = 100000;

constexpr Scheme kAsAsked{CodeKind::kAffine, 0, 0};
constexpr Scheme kNf4Blocks{CodeKind::kNf4, 4, 64, ZeroKind::kNone};
constexpr Scheme kInt8{CodeKind::kAffine, 8, -1, ZeroKind::kNone, Activations::kInt8Token};
constexpr float kOutliers = 6;  // LLM.int8's threshold (Dettmers et al. 2022, section 3.2)
constexpr Scheme kInt8Outliers{CodeKind::kAffine, 8, -1, ZeroKind::kNone, Activations::kInt8Outliers, kOutliers};

void check_options(const QuantizeOptions& o) {
  const Method& method = find_method(o.method);
  if (o.quality != "fast" && o.quality != "best" && o.quality != "max")
    fail(Code::kBadArgument, "--quality {}: expected fast, best or max", o.quality);
  if (o.quality == "max" && o.method != "awq") fail(Code::kBadArgument, "--quality max: expected --method awq, got {}", o.method);
  if (o.iterations < 1 || o.iterations > kMostIterations)
    fail(Code::kBadArgument, "--iterations {}: expected 1 to {}", o.iterations, kMostIterations);
  if (o.bits != 0 && (o.bits < 2 || o.bits > 8)) fail(Code::kBadArgument, "--bits {}: expected 2 to 8", o.bits);
  if (o.group && *o.group != -1 && *o.group < 8)
    fail(Code::kBadArgument, "--group-size {}: expected auto, -1 (one group per output) or at least 8", *o.group);
  const Scheme& fixed = method.fixed;
  if (o.mixed) {
    const std::string& where = o.mixed->where;
    if (o.bits != 0 || o.group || o.symmetric)
      fail(Code::kBadArgument, "--plan {}: it says bits and groups: expected neither --bits nor --group-size nor --sym", where);
    if (o.method != "awq" && o.method != "gptq" && o.method != "rtn")
      fail(Code::kBadArgument, "--plan {}: expected --method awq, gptq or rtn, got {}", where, o.method);
    if (o.format != "auto" && o.format != "compressed-tensors" && o.format != "dense")
      fail(Code::kBadArgument, "--plan {}: expected --format compressed-tensors or dense, which hold several schemes, got {}", where, o.format);
  }
  if (fixed.bits == 0) return;
  if (o.bits != 0 && o.bits != fixed.bits) fail(Code::kBadArgument, "--method {} has {} bits, got --bits {}", o.method, fixed.bits, o.bits);
  if (o.group && *o.group != fixed.group)
    fail(Code::kBadArgument, "--method {} has groups of {}, got --group-size {}", o.method,
         fixed.group < 0 ? "a whole row (-1)" : std::to_string(fixed.group), *o.group);
}

std::string skip_reason(const LinearSpec& linear, const Scheme& scheme, const QuantizeOptions& options, const QuantizePlan& plan) {
  for (const std::string& name : options.skip)
    if (names_component(linear.module, name)) return "--skip " + name;
  if (scheme.bits == kDenseBits) return "the plan leaves it as it is";
  if (scheme.code == CodeKind::kNf4 && linear.in % scheme.group != 0)
    return fmt::format("{} inputs are not a multiple of {}", linear.in, scheme.group);
  return plan.form ? form_refusal(*plan.form, scheme, linear.out, linear.in) : "";
}

// The scheme of every linear a plan file names; the names that are none of this model's are refused.
class MixedSchemes {
 public:
  explicit MixedSchemes(const std::optional<MixedPlan>& plan) : plan_(plan) {
    if (!plan) return;
    for (const MixedUnit& u : plan->units)
      for (const std::string& module : u.modules) by_module_.emplace(module, u.scheme);
  }

  Scheme of(const LinearSpec& linear, const Scheme& base) {
    const auto found = by_module_.find(linear.module);
    if (found == by_module_.end()) return base;
    seen_.insert(linear.module);
    const Scheme& s = found->second;
    if (s.bits != kDenseBits && s.group > 0 && linear.in % s.group != 0)
      fail(Code::kBadFile, "{}: {}: expected a group size that divides its {} inputs, got {}", plan_->where, linear.module, linear.in, s.group);
    return s;
  }

  // Loaders fuse what reads one input in attention and MLP: their parts must be stored alike.
  void check_fused(const std::vector<PlannedLinear>& block) const {
    if (!plan_) return;
    for (const Site site : {Site::kAttentionIn, Site::kMlpIn}) {
      const PlannedLinear* first = nullptr;
      for (const PlannedLinear& l : block) {
        if (l.spec.reads != site) continue;
        if (first == nullptr) first = &l;
        if (l.scheme != first->scheme)
          fail(Code::kBadFile, "{}: loaders fuse {} with {}: expected one scheme for both, got {} and {}", plan_->where, first->spec.module,
               l.spec.module, text_of(first->scheme), text_of(l.scheme));
      }
    }
  }

  void check_all_seen() const {
    for (const auto& [module, scheme] : by_module_)
      if (!seen_.contains(module)) fail(Code::kBadFile, "{}: {}: names no linear of this model", plan_->where, printable(module));
  }

 private:
  static std::string text_of(const Scheme& s) { return s.bits == kDenseBits ? "16 bits" : s.text(); }

  const std::optional<MixedPlan>& plan_;
  std::map<std::string, Scheme> by_module_;
  std::set<std::string> seen_;
};

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

void check_base_group(const MixedPlan& plan, const std::vector<std::vector<PlannedLinear>>& blocks) {
  for (const auto& block : blocks)
    for (const PlannedLinear& l : block)
      if (l.quantized && l.scheme.group > 0 && l.spec.in % l.scheme.group != 0)
        fail(Code::kBadFile, "{}: base: expected a group size that divides the {} inputs of {}, which no unit names, got {}", plan.where,
             l.spec.in, l.spec.module, l.scheme.group);
}

// The stored form for a scheme whose group size is not known yet; empty for plain tensors.
std::optional<StoredForm> choose_form(const QuantizeOptions& o, const Scheme& scheme) {
  const bool int8 = scheme.activations == Activations::kInt8Token;
  const auto pick = [&]() -> std::optional<StoredForm> {
    if (o.format == "auto") {
      if (scheme.code == CodeKind::kNf4) return StoredForm::kBnbNf4;
      if (scheme.activations == Activations::kInt8Outliers) return StoredForm::kBnbInt8;
      if (int8) return StoredForm::kIntQuantized;
      return scheme.bits == 4 && !o.mixed ? StoredForm::kAwqGemm : StoredForm::kPackQuantized;
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
double stored_bits(const std::optional<StoredForm>& form, const Scheme& scheme, const LinearSpec& l) {
  const double weights = static_cast<double>(l.out * l.in);
  if (!form) {
    const int zero_bits = scheme.code == CodeKind::kNf4 ? 0 : scheme.bits;
    return scheme.bits + (16.0 + zero_bits) / static_cast<double>(scheme.group_size(l.in));
  }
  double bytes = 0;
  for (const StoredPart& part : stored_parts(*form, scheme, l.out, l.in, DType::kF16)) bytes += static_cast<double>(part.bytes());
  return 8 * bytes / weights;
}

int64_t memory_estimate(const Checkpoint& checkpoint, const QuantizePlan& plan, const QuantizeOptions& options, int64_t tokens) {
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
  // Numbers, gradients and offsets of a block's weights, what its backward pass keeps of a batch, and the states it starts from.
  const int64_t tuning = options.quality != "max" ? 0
                                                  : states + block_weights * 4 * 5 + 2048 * 4 * (8 * c.hidden + 6 * heads_width + 6 * c.intermediate);
  return (int64_t{80} << 20) + tables + states + grams + scratch + tuning + block_weights * 4 * 3;
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

std::string QuantizePlan::scheme_text() const {
  if (!mixed) return scheme.text();
  std::set<std::tuple<int, int, std::string>> all;
  for (const auto& block : blocks)
    for (const PlannedLinear& l : block)
      if (l.quantized) all.emplace(l.scheme.bits, -l.scheme.group, l.scheme.text());
  std::string out;
  for (const auto& [bits, group, text] : all) out += (out.empty() ? "" : "+") + text;
  return out;
}

const PlannedLinear& QuantizePlan::linear(int64_t block, const std::string& module) const {
  for (const PlannedLinear& l : blocks.at(static_cast<size_t>(block)))
    if (l.spec.module == module) return l;
  fail(Code::kInternal, "internal error: {} is not in the plan", module);
}

QuantizePlan plan_quantize(const Checkpoint& checkpoint, const QuantizeOptions& options, int64_t tokens) {
  check_options(options);
  const std::string where = checkpoint.path().string();
  if (checkpoint.packing())
    fail(Code::kBadArgument, "{}: expected an unquantized checkpoint, got one that is already quantized ({})", where,
         checkpoint.format().name);
  QuantizePlan plan;
  plan.config = parse_model_config(checkpoint.config(), where);
  if (options.quality == "max" && !goes_backward(plan.config))
    fail(Code::kUnsupported, "{}: --quality max: model type '{}' has no backward pass yet; use --quality best", where, plan.config.model_type);
  plan.scheme = find_method(options.method).fixed;
  const bool asked = plan.scheme.bits == 0;
  if (options.mixed)
    plan.scheme = options.mixed->base;
  else if (asked)
    plan.scheme = {CodeKind::kAffine, planned_bits(options), -1, options.symmetric ? ZeroKind::kNone : ZeroKind::kInteger};
  plan.form = choose_form(options, plan.scheme);
  plan.format = plan.form ? form_name(*plan.form) : "dense";
  const ArchSpec& arch = find_arch(plan.config.model_type, where);
  require_tensors(checkpoint, arch, plan.config);
  MixedSchemes schemes(options.mixed);
  std::set<std::string> unused(options.skip.begin(), options.skip.end());
  for (int64_t i = 0; i < plan.config.layers; ++i) {
    std::vector<PlannedLinear> block;
    for (const LinearSpec& spec : arch.block(plan.config, i).linears) {
      const Scheme scheme = schemes.of(spec, plan.scheme);
      const std::string reason = skip_reason(spec, scheme, options, plan);
      block.push_back({spec, scheme, reason.empty(), reason});
      for (const std::string& name : options.skip)
        if (names_component(spec.module, name)) unused.erase(name);
    }
    schemes.check_fused(block);
    unify_fused(block);
    plan.blocks.push_back(std::move(block));
  }
  unused.erase("lm_head");
  if (!unused.empty()) fail(Code::kBadArgument, "--skip {}: names no linear of this model", *unused.begin());

  schemes.check_all_seen();
  if (options.mixed)
    check_base_group(*options.mixed, plan.blocks);
  else if (asked)
    plan.scheme.group = choose_group(options, plan.blocks);
  double bits = 0;
  for (auto& block : plan.blocks)
    for (PlannedLinear& l : block) {
      if (!options.mixed) l.scheme = plan.scheme;
      plan.mixed |= l.scheme != plan.scheme;
      if (!l.quantized) {
        plan.not_converted.push_back(l.spec.module);
        continue;
      }
      ++plan.quantized_linears;
      plan.quantized_weights += l.spec.out * l.spec.in;
      bits += stored_bits(plan.form, l.scheme, l.spec) * static_cast<double>(l.spec.out * l.spec.in);
    }
  if (plan.quantized_linears == 0) fail(Code::kBadArgument, "nothing is left to quantize: --skip names every linear");
  plan.bits_per_weight = bits / static_cast<double>(plan.quantized_weights);
  plan.weight_bytes = planned_bytes(output_plan(checkpoint, plan, DType::kF16));
  for (const StoredTensor& t : checkpoint.tensors()) plan.source_bytes += t.bytes;
  plan.memory_bytes = memory_estimate(checkpoint, plan, options, tokens);
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
        for (StoredPart& part : stored_parts(*plan.form, l.scheme, s.out, s.in, dtype))
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
