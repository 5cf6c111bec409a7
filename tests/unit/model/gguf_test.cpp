// The golden checkpoints as the GGUF files a converter makes of them: same logits.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "checkpoint/gguf_names.h"
#include "unit/formats/files.h"
#include "unit/kernels/kernel_testing.h"
#include "unit/model/golden.h"

namespace awq::testing {
namespace {

using test::GgufBuilder;

struct Conversion {
  const char* golden;
  const char* arch;  // general.architecture
};

class GgufModel : public ::testing::TestWithParam<Conversion> {};

void add_metadata(GgufBuilder& b, const std::string& arch, const ModelConfig& c) {
  const auto count = [&](const char* key, int64_t n) { b.u32(arch + "." + key, static_cast<uint32_t>(n)); };
  const auto real = [&](const char* key, double x) { b.f32(arch + "." + key, static_cast<float>(x)); };
  b.text("general.architecture", arch);
  count("block_count", c.layers);
  count("context_length", c.max_position);
  count("embedding_length", c.hidden);
  count("feed_forward_length", c.intermediate);
  count("attention.head_count", c.heads);
  count("attention.head_count_kv", c.kv_heads);
  count("rope.dimension_count", c.rope.dim);
  real("attention.layer_norm_rms_epsilon", c.rms_eps);
  real("rope.freq_base", c.rope.theta);
  if (c.norm_offset != 0) {
    std::vector<uint8_t> windows;
    for (int64_t i = 0; i < c.layers; ++i) windows.push_back(c.window(i) > 0);
    b.array(arch + ".attention.sliding_window_pattern", 7, windows);  // of bools
    if (c.window_rope) real("rope.freq_base_swa", c.window_rope->theta);
    if (c.attention_softcap > 0) real("attn_logit_softcapping", c.attention_softcap), real("final_logit_softcapping", c.final_softcap);
  }
  if (c.head_dim * c.heads != c.hidden) count("attention.key_length", c.head_dim), count("attention.value_length", c.head_dim);
  if (c.sliding_window > 0) count("attention.sliding_window", c.sliding_window);
  if (c.rope.type == RopeType::kYarn) {
    b.text(arch + ".rope.scaling.type", "yarn");
    real("rope.scaling.factor", c.rope.factor);
    count("rope.scaling.original_context_length", static_cast<int64_t>(c.rope.original_max_position));
  }
  if (c.rope.type != RopeType::kLongRope) return;
  count("rope.scaling.original_context_length", static_cast<int64_t>(c.rope.original_max_position));
  real("rope.scaling.attn_factor", c.rope.magnitude);
  const auto pairs = c.rope.dim / 2;
  b.f32_tensor("rope_factors_long.weight", {pairs}, {c.rope.long_factor.begin(), c.rope.long_factor.end()});
  b.f32_tensor("rope_factors_short.weight", {pairs}, {c.rope.short_factor.begin(), c.rope.short_factor.end()});
}

// Row i of a head becomes row 2i, row i + d/2 becomes row 2i + 1.
std::vector<float> interleaved(const Tensor& t, int64_t head_dim) {
  const int64_t width = t.rank() == 2 ? t.dim(1) : 1;
  std::vector<float> out(static_cast<size_t>(t.numel()));
  for (int64_t row = 0; row < t.dim(0); ++row) {
    const int64_t i = row % head_dim, half = head_dim / 2;
    const int64_t to = row - i + (i < half ? 2 * i : 2 * (i - half) + 1);
    std::memcpy(out.data() + to * width, t.f32() + row * width, static_cast<size_t>(width) * sizeof(float));
  }
  return out;
}

std::string gguf_name(const GgufArch& arch, const std::string& name) {
  const size_t kind = name.rfind('.');
  const std::string stem = name.substr(0, kind);
  if (stem == "model.embed_tokens") return "token_embd.weight";
  if (stem == "model.norm") return "output_norm.weight";
  if (stem == "lm_head") return "output.weight";
  const size_t number = std::string("model.layers.").size(), dot = stem.find('.', number);
  for (const GgufName& n : arch.block)
    if (stem.substr(dot + 1) == n.hf)
      return "blk." + stem.substr(number, dot - number) + "." + std::string(n.gguf) + name.substr(kind);
  ADD_FAILURE() << name;
  return name;
}

std::string converted(const Checkpoint& source, const ModelConfig& config, const std::string& name) {
  const GgufArch& arch = *find_gguf_arch(name);
  GgufBuilder b;
  add_metadata(b, name, config);
  for (const StoredTensor& stored : source.tensors()) {
    const Tensor t = source.load(stored.name).to_f32();
    const bool turned = stored.name.find("q_proj") != std::string::npos || stored.name.find("k_proj") != std::string::npos;
    std::vector<float> values =
        arch.permuted_qk && turned ? interleaved(t, config.head_dim) : std::vector<float>(t.f32(), t.f32() + t.numel());
    if (stored.shape.size() == 1)
      for (float& v : values) v += config.norm_offset;
    b.f32_tensor(gguf_name(arch, stored.name), t.shape(), values);
  }
  return b.build();
}

TEST_P(GgufModel, SameLogits) {
  const auto source = Checkpoint::open(golden_root() / GetParam().golden);
  const Expected expected = load_expected(GetParam().golden);
  const ModelConfig config = parse_model_config(source->config(), "config.json");
  const test::TempDir dir;
  const auto file = dir.write("model.gguf", converted(*source, config, GetParam().arch));
  const auto model = Model::load(*Checkpoint::open(file));
  EXPECT_LT(relative_error(run_steps(*model, expected.ids, whole_sequences(), nullptr), expected.logits), kGoldenTolerance);
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, GgufModel,
                         ::testing::Values(Conversion{"llama-untied", "llama"}, Conversion{"llama-biases", "llama"},
                                           Conversion{"llama-yarn", "llama"}, Conversion{"mistral-window", "llama"},
                                           Conversion{"mistral-head-dim", "llama"}, Conversion{"qwen2-tied", "qwen2"},
                                           Conversion{"qwen3-tied", "qwen3"}, Conversion{"qwen3-untied", "qwen3"},
                                           Conversion{"phi3-plain", "phi3"}, Conversion{"phi3-partial", "phi3"},
                                           Conversion{"phi3-longrope-short", "phi3"},
                                           Conversion{"phi3-longrope-long", "phi3"}, Conversion{"gemma2-softcaps", "gemma2"},
                                           Conversion{"gemma3-layer-types-v5", "gemma3"}),
                         [](const auto& given) { return test_name(given.param.golden); });

}  // namespace
}  // namespace awq::testing
