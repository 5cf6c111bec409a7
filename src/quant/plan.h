// What a quantization will do, decided from headers alone: which linears, with which scheme, in which format, and exactly
// how large the result will be.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/writer.h"
#include "model/model.h"
#include "quant/mixed_plan.h"

namespace awq {

struct QuantizeOptions {
  std::string method = "awq";  // one of methods()
  // Of awq: "fast" searches scales and ranges, "best" compensates rounding errors too, "max" then tunes each block with gradients.
  std::string quality = "best";
  int iterations = 200;  // of "max", per block
  int bits = 0;                  // 0: as the method has it, see planned_bits
  std::optional<int> group;    // empty: auto; -1: per column
  bool symmetric = false;
  // "auto", "gemm", "gptq" (v1 when symmetric, else v2: v1 cannot hold a zero point of 0), "gptq-v2", "compressed-tensors",
  // "bnb-nf4", "bnb-int8", "dense"
  std::string format = "auto";
  std::string dtype = "auto";   // "auto", "float16", "bfloat16"
  std::vector<std::string> skip;  // components of module names to leave out: "lm_head", "down_proj", "layers.0"
  std::optional<MixedPlan> mixed;  // schemes of single linears; then bits, group and symmetric stay unset
};

// What is asked of a method before its rounder runs (rounding.h).
struct Method {
  const char* name;
  bool calibrates;  // reads statistics of a calibration text
  Scheme fixed;     // the scheme of methods that have but one; bits 0: as the options say
};
const std::vector<Method>& methods();
const Method& find_method(const std::string& name);  // kBadArgument naming all
inline bool calibrates(const std::string& method) { return find_method(method).calibrates; }
int planned_bits(const QuantizeOptions& options);

struct PlannedLinear {
  LinearSpec spec;
  Scheme scheme;  // with its group size; meaningless where not quantized
  bool quantized = true;
  std::string skipped_because;  // when not quantized
};

struct QuantizePlan {
  ModelConfig config;
  Scheme scheme;       // with the group size chosen; of most linears where they differ (a plan's base)
  bool mixed = false;  // some linear has another scheme
  std::string format;  // of the stored form: "gemm", ..., or "dense"
  std::optional<StoredForm> form;  // empty: dense
  std::vector<std::vector<PlannedLinear>> blocks;
  std::vector<std::string> not_converted;  // for modules_to_not_convert
  int64_t quantized_linears = 0, quantized_weights = 0;
  double bits_per_weight = 0;  // of the quantized linears, scales and zero points included
  int64_t weight_bytes = 0;    // of the output, exact, index included
  int64_t source_bytes = 0;    // of the source's tensors
  int64_t memory_bytes = 0;    // estimated peak for the tokens given

  // "w4g128z"; of mixed ones all, by bits: "w4g64z+w8g64".
  std::string scheme_text() const;
  const PlannedLinear& linear(int64_t block, const std::string& module) const;  // kInternal when there is none
};

// tokens: calibration plus held-out tokens, for the memory estimate. Errors: kUnsupported (architecture, method, format),
// kBadArgument ("group size 128 does not divide q_proj's 576 inputs: use --group-size auto or 64").
QuantizePlan plan_quantize(const Checkpoint& checkpoint, const QuantizeOptions& options, int64_t tokens);

// The tensors of the output for a dtype of the unquantized ones (F16 or BF16).
OutputPlan output_plan(const Checkpoint& checkpoint, const QuantizePlan& plan, DType dtype);

// Whether `name` is one of the dot-separated runs of components of `module`: "layers.1" matches
// "model.layers.1.mlp.up_proj" but not "model.layers.10".
bool names_component(const std::string& module, const std::string& name);

}  // namespace awq
