#include "quant/plan.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

namespace awq {
namespace {

constexpr int kAutoGroups[] = {128, 64, 32};

void check_options(const QuantizeOptions& o) {
  if (o.method != "awq" && o.method != "rtn") fail(Code::kBadArgument, "--method {}: expected awq or rtn", o.method);
  if (o.quality != "fast" && o.quality != "best") fail(Code::kBadArgument, "--quality {}: expected fast or best", o.quality);
  if (o.bits < 2 || o.bits > 8) fail(Code::kBadArgument, "--bits {}: expected 2 to 8", o.bits);
  if (o.group && *o.group != -1 && *o.group < 8)
    fail(Code::kBadArgument, "--group-size {}: expected auto, -1 (one group per output) or at least 8", *o.group);
}

std::string skip_reason(const LinearSpec& linear, const QuantizeOptions& options, const std::string& format) {
  for (const std::string& name : options.skip)
    if (names_component(linear.module, name)) return "--skip " + name;
  if (format == "gemm" && linear.out % 8 != 0) return fmt::format("{} outputs are not a multiple of 8", linear.out);
  return "";
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

std::string choose_format(const QuantizeOptions& o) {
  if (o.format == "dense") return "dense";
  if (o.format != "auto" && o.format != "gemm") fail(Code::kBadArgument, "--format {}: expected auto, gemm or dense", o.format);
  if (o.bits == 4) return "gemm";
  if (o.format == "gemm") fail(Code::kBadArgument, "--format gemm holds 4 bits only, got --bits {}: use --format dense", o.bits);
  return "dense";
}

// Weight codes, fp16 scales, and 4 bits per zero point as gemm stores them.
double stored_bits(const Scheme& scheme, const LinearSpec& l) {
  const double group = static_cast<double>(scheme.group_size(l.in));
  return scheme.bits + (16.0 + scheme.bits) / group;
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

bool names_component(const std::string& module, const std::string& name) {
  const std::string padded = "." + module + ".", wanted = "." + name + ".";
  return !name.empty() && padded.find(wanted) != std::string::npos;
}

QuantizePlan plan_quantize(const Checkpoint& checkpoint, const QuantizeOptions& options, int64_t tokens) {
  check_options(options);
  const std::string where = checkpoint.path().string();
  if (checkpoint.awq())
    fail(Code::kBadArgument, "{}: expected an unquantized checkpoint, got one that is already quantized ({})", where,
         checkpoint.format().name);
  QuantizePlan plan;
  plan.config = parse_model_config(checkpoint.config(), where);
  plan.format = choose_format(options);
  const ArchSpec& arch = find_arch(plan.config.model_type, where);
  require_tensors(checkpoint, arch, plan.config);
  std::set<std::string> unused(options.skip.begin(), options.skip.end());
  for (int64_t i = 0; i < plan.config.layers; ++i) {
    std::vector<PlannedLinear> block;
    for (const LinearSpec& spec : arch.block(plan.config, i).linears) {
      const std::string reason = skip_reason(spec, options, plan.format);
      block.push_back({spec, reason.empty(), reason});
      for (const std::string& name : options.skip)
        if (names_component(spec.module, name)) unused.erase(name);
    }
    unify_fused(block);
    plan.blocks.push_back(std::move(block));
  }
  unused.erase("lm_head");
  if (!unused.empty()) fail(Code::kBadArgument, "--skip {}: names no linear of this model", *unused.begin());

  plan.scheme = {CodeKind::kAffine, options.bits, choose_group(options, plan.blocks),
                 options.symmetric ? ZeroKind::kNone : ZeroKind::kInteger};
  double bits = 0;
  for (const auto& block : plan.blocks)
    for (const PlannedLinear& l : block) {
      if (!l.quantized) {
        plan.not_converted.push_back(l.spec.module);
        continue;
      }
      ++plan.quantized_linears;
      plan.quantized_weights += l.spec.out * l.spec.in;
      bits += stored_bits(plan.scheme, l.spec) * static_cast<double>(l.spec.out * l.spec.in);
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
      if (l.quantized && plan.format == "gemm") {
        const int64_t groups = plan.scheme.groups(s.in);
        out.tensors.push_back({s.module + ".qweight", DType::kI32, {s.in, s.out / 8}});
        out.tensors.push_back({s.module + ".qzeros", DType::kI32, {groups, s.out / 8}});
        out.tensors.push_back({s.module + ".scales", DType::kF16, {groups, s.out}});
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
