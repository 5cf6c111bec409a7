// The golden checkpoints under tests/data/golden, and running them in steps of any shape.
#pragma once
#include <algorithm>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "formats/safetensors.h"
#include "model/model.h"

namespace awq::testing {

constexpr int64_t kGoldenSequences = 2, kGoldenLength = 40;
constexpr double kGoldenTolerance = 1e-4;  // max |difference| / max |logit|

inline std::filesystem::path golden_root() { return std::filesystem::path(AWQ_TEST_DATA) / "golden"; }

// Names relative to golden_root(): "llama-tied", "autoawq/quant-config-json", ...
inline std::vector<std::string> golden_names(bool with_autoawq = true) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(golden_root()))
    if (entry.path().filename() == "config.json")
      names.push_back(std::filesystem::relative(entry.path().parent_path(), golden_root()).generic_string());
  std::erase_if(names,
                [&](const std::string& name) { return !with_autoawq && name.starts_with("autoawq/"); });
  std::sort(names.begin(), names.end());
  return names;
}

// "llama-tied" -> "llama_tied": a name GoogleTest takes.
inline std::string test_name(std::string name) {
  for (char& c : name)
    if (c == '-' || c == '/') c = '_';
  return name;
}

struct Expected {
  std::vector<int32_t> ids;   // [2, 40]
  std::vector<float> logits;  // [2, 40, vocab]
  // Fed token by token, where that differs because the rotation depends on the length; else empty.
  std::vector<float> stepwise;
};

inline Expected load_expected(const std::string& name) {
  const auto file = SafetensorsFile::open(golden_root() / name / "expected.safetensors");
  const Tensor ids = file->tensor(*file->find("ids")), logits = file->tensor(*file->find("logits"));
  Expected e;
  e.ids.assign(ids.data<int64_t>(), ids.data<int64_t>() + ids.numel());
  e.logits.assign(logits.f32(), logits.f32() + logits.numel());
  if (const auto* entry = file->find("stepwise")) {
    const Tensor stepwise = file->tensor(*entry);
    e.stepwise.assign(stepwise.f32(), stepwise.f32() + stepwise.numel());
  }
  return e;
}

// One step: for each sequence taking part, in this order, how many of its next tokens.
using Step = std::vector<std::pair<int64_t, int64_t>>;

// Runs the two recorded sequences in `steps` and returns their logits [2, 40, vocab]. Without a cache there
// is one step over whole sequences. Pages are dealt in an order that mixes both sequences. Steps are told how
// long the sequences will become, unless `foreseen` is false.
inline std::vector<float> run_steps(const Model& model, const std::vector<int32_t>& ids,
                                    const std::vector<Step>& steps, const KvCache* cache,
                                    bool foreseen = true) {
  constexpr int32_t kPages[kGoldenSequences][3] = {{4, 1, 3}, {0, 5, 2}};
  const int64_t vocab = model.config().vocab, dim = model.config().hidden;
  std::vector<float> out(static_cast<size_t>(kGoldenSequences * kGoldenLength * vocab)), hidden;
  int64_t past[kGoldenSequences] = {};
  Scratch scratch;
  for (const Step& step : steps) {
    std::vector<int32_t> tokens, positions;
    std::vector<SpanView> spans;
    for (const auto& [sequence, count] : step) {
      spans.push_back(
          {static_cast<int64_t>(tokens.size()), count, past[sequence], cache ? kPages[sequence] : nullptr});
      for (int64_t i = past[sequence]; i < past[sequence] + count; ++i) {
        tokens.push_back(ids[static_cast<size_t>(sequence * kGoldenLength + i)]);
        positions.push_back(static_cast<int32_t>(i));
      }
    }
    const std::vector<int64_t> lengths(foreseen ? step.size() : 0, kGoldenLength);
    model.forward({tokens, positions, spans, lengths}, cache, scratch, hidden);
    for (size_t s = 0; s < step.size(); ++s) {
      const int64_t sequence = step[s].first;
      model.logits(hidden.data() + spans[s].first * dim, spans[s].tokens,
                   out.data() + (sequence * kGoldenLength + past[sequence]) * vocab);
      past[sequence] += spans[s].tokens;
    }
  }
  return out;
}

inline const std::vector<Step>& whole_sequences() {
  static const std::vector<Step> steps = {{{0, kGoldenLength}, {1, kGoldenLength}}};
  return steps;
}

}  // namespace awq::testing
