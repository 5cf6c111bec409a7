#include "model/verify.h"

#include <algorithm>
#include <set>

#include "base/progress.h"
#include "model/arch.h"

namespace awq {
namespace fs = std::filesystem;
namespace {

using Severity = Finding::Severity;
using Findings = std::vector<Finding>;

// Goes through the tensors that the configuration asks for, and remembers them.
class TensorCheck {
 public:
  TensorCheck(const Checkpoint& checkpoint, const ModelConfig& config)
      : checkpoint_(checkpoint), config_(config) {}

  Findings run() {
    dense(kEmbedName, {config_.vocab, config_.hidden});
    dense(kFinalNormName, {config_.hidden});
    if (!config_.tied || checkpoint_.has(kHeadName)) linear("lm_head", config_.vocab, config_.hidden, false);
    const ArchSpec& arch = find_arch(config_.model_type, checkpoint_.path().string());
    for (int64_t layer = 0; layer < config_.layers; ++layer) {
      const BlockSpec block = arch.block(config_, layer);
      for (const NormSpec& norm : block.norms(config_)) dense(norm.name + ".weight", {norm.dim});
      for (const LinearSpec& l : block.linears) linear(l.module, l.out, l.in, l.bias);
    }
    for (const StoredTensor& t : checkpoint_.tensors())
      if (!expected_.contains(t.name)) unexpected(t);
    return std::move(out_);
  }

 private:
  void linear(const std::string& module, int64_t out, int64_t in, bool bias) {
    if (bias) dense(module + ".bias", {out});
    if (checkpoint_.is_quantized(module)) return packed(module, out, in);
    dense(module + ".weight", {out, in});
  }

  // docs/formats.md, section a: eight codes in a word, along the outputs.
  void packed(const std::string& module, int64_t out, int64_t in) {
    if (!checkpoint_.awq()) return decoded(module, out, in);
    const AwqConfig& awq = *checkpoint_.awq();
    const int64_t group = awq.group_size == -1 ? in : awq.group_size, groups = group > 0 ? in / group : 0,
                  words = out / 8;
    expect(module + ".qweight", {in, words}, {"I32"});
    const StoredTensor* zeros = expect(module + ".qzeros", {groups, words}, {"I32"});
    const StoredTensor* scales = expect(module + ".scales", {groups, out}, {"F16", "BF16", "F32"});
    if (scales != nullptr) check_scales(*scales);
    if (zeros != nullptr && !awq.zero_point) check_symmetric(*zeros);
  }

  // Other forms: their decoder checks the parts against each other (docs/formats.md, sections d to f).
  void decoded(const std::string& module, int64_t out, int64_t in) {
    for (const StoredTensor& t : checkpoint_.tensors())
      if (t.name.starts_with(module + ".") && t.name != module + ".bias") expected_.insert(t.name);
    const std::string marker = module + std::string(form_marker(checkpoint_.packing()->form));
    const StoredTensor& first = *checkpoint_.find(marker);
    try {
      const QuantWeight w = checkpoint_.load_quant(module);
      check_consistent(w);
      if (w.rows != out || w.cols != in)
        wrong(first, "shape", fmt::format("expected {} outputs and {} inputs, got {} and {}", out, in, w.rows, w.cols));
    } catch (const Error& e) {
      if (e.code() == Code::kCancelled || e.code() == Code::kNoMemory) throw;
      wrong(first, "packing", e.what());
    }
  }

  void dense(const std::string& name, const Shape& shape) {
    const StoredTensor* t = expect(name, shape, {});
    if (t != nullptr) values(*t);
  }

  // The tensor when it is there with the right shape and dtype; `dtypes` empty: any that load() makes floats
  // of.
  const StoredTensor* expect(const std::string& name, const Shape& shape,
                             const std::vector<std::string>& dtypes) {
    expected_.insert(name);
    const StoredTensor* t = checkpoint_.find(name);
    if (t == nullptr) {
      out_.push_back({Severity::kError, "missing", "", name,
                      fmt::format("expected shape {}, found nothing", shape_text(shape))});
      return nullptr;
    }
    if (t->shape != shape)
      return wrong(*t, "shape", fmt::format("expected {}, got {}", shape_text(shape), shape_text(t->shape)));
    if (!dtypes.empty() && std::find(dtypes.begin(), dtypes.end(), t->dtype) == dtypes.end())
      return wrong(*t, "dtype", fmt::format("expected {}, got {}", dtypes.front(), t->dtype));
    return t;
  }

  const StoredTensor* wrong(const StoredTensor& t, const char* rule, const std::string& text) {
    out_.push_back({Severity::kError, rule, t.file.filename().string(), t.stored_name, text});
    return nullptr;
  }

  void values(const StoredTensor& t) {
    check_cancelled();
    try {
      const Tensor tensor = checkpoint_.load(t.name, true);
      if (!is_float(tensor.dtype()))
        wrong(t, "dtype", fmt::format("expected floating-point weights, got {}", t.dtype));
    } catch (const Error& error) {
      if (error.code() == Code::kCancelled || error.code() == Code::kNoMemory) throw;
      wrong(t, error.code() == Code::kBadFile ? "nonfinite" : "dtype", error.what());
    }
  }

  void check_scales(const StoredTensor& t) {
    const size_t before = out_.size();
    values(t);
    if (out_.size() != before) return;
    const Tensor scales = checkpoint_.load(t.name, false).to_f32();
    const float* s = scales.f32();
    for (int64_t i = 0; i < scales.numel(); ++i)
      if (s[i] == 0) {
        wrong(t, "zero_scale", fmt::format("expected scales other than 0, got 0 at element {}", i));
        return;
      }
  }

  void check_symmetric(const StoredTensor& t) {
    const Tensor zeros = checkpoint_.load(t.name, false);
    const auto* words = zeros.data<uint32_t>();
    for (int64_t i = 0; i < zeros.numel(); ++i)
      if (words[i] != 0x88888888u) {
        wrong(t, "symmetric_zero",
              fmt::format("expected zeros of 8 since zero_point is false, got {:#010x} at word {}", words[i],
                          i));
        return;
      }
  }

  void unexpected(const StoredTensor& t) {
    // Scales beside small floats belong to the weight; tables of rope frequencies are recomputed by everyone.
    for (const char* suffix : {"_scale_inv", "_scale", "_scales"})
      if (t.name.ends_with(suffix) &&
          expected_.contains(t.name.substr(0, t.name.size() - std::string_view(suffix).size())))
        return;
    if (t.name.ends_with(".input_scale")) return;
    const bool table = t.name.ends_with(".rotary_emb.inv_freq");
    out_.push_back({table ? Severity::kNote : Severity::kError, "unexpected", t.file.filename().string(),
                    t.stored_name,
                    fmt::format("the configuration has no place for it (shape {})", shape_text(t.shape))});
  }

  const Checkpoint& checkpoint_;
  const ModelConfig& config_;
  std::set<std::string, std::less<>> expected_;
  Findings out_;
};

void add(Findings& to, Findings more) {
  to.insert(to.end(), std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
}

// Damage is a finding; being stopped and running out of memory are not.
template <class Step>
bool attempt(const char* rule, Findings& out, Step&& step) {
  try {
    step();
    return true;
  } catch (const Error& error) {
    if (error.code() == Code::kCancelled || error.code() == Code::kNoMemory) throw;
    out.push_back({Severity::kError, rule, "", "", error.what()});
    return false;
  }
}

}  // namespace

Findings verify_tensors(const Checkpoint& checkpoint, const ModelConfig& config) {
  return TensorCheck(checkpoint, config).run();
}

Findings verify_checkpoint(const fs::path& path, std::optional<ServingSystem> system) {
  if (!fs::exists(path)) fail(Code::kNotFound, "{}: no such file or folder", path.string());
  Findings out;
  if (fs::is_directory(path)) attempt("open", out, [&] { out = verify_stored_files(path); });
  std::shared_ptr<const Checkpoint> checkpoint;
  if (!attempt("open", out, [&] { checkpoint = Checkpoint::open(path); })) return out;
  ModelConfig config;
  if (!attempt("config", out,
               [&] { config = parse_model_config(checkpoint->config(), checkpoint->path().string()); }))
    return out;
  attempt("open", out, [&] { add(out, verify_tensors(*checkpoint, config)); });
  if (system) attempt("open", out, [&] { add(out, check_serving_rules(*checkpoint, config, *system)); });
  return out;
}

}  // namespace awq
