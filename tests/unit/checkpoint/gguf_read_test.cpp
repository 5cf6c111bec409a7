#include <gmock/gmock.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <numbers>

#include "base/half.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/gguf_names.h"
#include "checkpoint/gguf_vocab.h"
#include "checkpoint/tokenizer_source.h"
#include "formats/gguf.h"
#include "unit/formats/files.h"

namespace awq {
namespace {

using namespace test;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int64_t kHidden = 32, kHeads = 4, kKvHeads = 2, kHeadDim = 8, kFfn = 64, kVocab = 6;

std::vector<float> ramp(int64_t n, float start = 0) {
  std::vector<float> out(static_cast<size_t>(n));
  for (size_t i = 0; i < out.size(); ++i) out[i] = start + static_cast<float>(i);
  return out;
}

GgufBuilder metadata(const std::string& arch) {
  GgufBuilder b;
  b.text("general.architecture", arch).text("general.license", "apache-2.0");
  b.u32(arch + ".block_count", 1).u32(arch + ".context_length", 128).u32(arch + ".embedding_length", kHidden);
  b.u32(arch + ".feed_forward_length", kFfn).u32(arch + ".attention.head_count", kHeads);
  b.u32(arch + ".attention.head_count_kv", kKvHeads).f32(arch + ".attention.layer_norm_rms_epsilon", 1e-6f);
  b.f32(arch + ".rope.freq_base", 5e5f);
  return b;
}

void add_weights(GgufBuilder& b, bool biases = false) {
  const auto matrix = [&](const std::string& name, int64_t rows, int64_t columns) {
    b.f32_tensor(name + ".weight", {rows, columns}, ramp(rows * columns));
    if (biases && name.starts_with("blk.0.attn_") && !name.ends_with("output"))
      b.f32_tensor(name + ".bias", {rows}, ramp(rows));
  };
  matrix("token_embd", kVocab, kHidden);
  matrix("blk.0.attn_q", kHeads * kHeadDim, kHidden);
  matrix("blk.0.attn_k", kKvHeads * kHeadDim, kHidden);
  matrix("blk.0.attn_v", kKvHeads * kHeadDim, kHidden);
  matrix("blk.0.attn_output", kHidden, kHidden);
  matrix("blk.0.ffn_gate", kFfn, kHidden);
  matrix("blk.0.ffn_up", kFfn, kHidden);
  matrix("blk.0.ffn_down", kHidden, kFfn);
  for (const char* norm : {"blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"})
    b.f32_tensor(std::string(norm) + ".weight", {kHidden}, ramp(kHidden));
}

void add_vocabulary(GgufBuilder& b) {
  b.text("tokenizer.ggml.model", "gpt2").text("tokenizer.ggml.pre", "qwen2");
  b.texts("tokenizer.ggml.tokens", {"a", "b", "ab", "<s>", "</s>"}).texts("tokenizer.ggml.merges", {"a b"});
  b.array<int32_t>("tokenizer.ggml.token_type", 5, {1, 1, 1, 3, 3});
  b.u32("tokenizer.ggml.bos_token_id", 3)
      .u32("tokenizer.ggml.eos_token_id", 4)
      .u32("tokenizer.ggml.eot_token_id", 3);
  b.boolean("tokenizer.ggml.add_bos_token", true).text("tokenizer.chat_template", "{{ x }}");
}

std::shared_ptr<const Checkpoint> open(const TempDir& dir, const GgufBuilder& b) {
  return Checkpoint::open(dir.write("m.gguf", b.build()));
}
std::string open_error(const GgufBuilder& b) {
  TempDir dir;
  return error_of([&] { open(dir, b); });
}

TEST(GgufRead, ConfigInHuggingFaceTerms) {
  TempDir dir;
  GgufBuilder b = metadata("llama");
  add_vocabulary(b);
  add_weights(b);
  const auto c = open(dir, b);
  const auto& config = c->config();
  EXPECT_TRUE(c->is_gguf());
  EXPECT_EQ(config["architectures"], nlohmann::ordered_json({"LlamaForCausalLM"}));
  const std::pair<const char*, nlohmann::ordered_json> expected[] = {
      {"model_type", "llama"},
      {"hidden_size", kHidden},
      {"intermediate_size", kFfn},
      {"num_hidden_layers", 1},
      {"num_attention_heads", kHeads},
      {"num_key_value_heads", kKvHeads},
      {"vocab_size", kVocab},
      {"max_position_embeddings", 128},
      {"rms_norm_eps", 1e-6},
      {"rope_theta", 5e5},
      {"tie_word_embeddings", true},
      {"bos_token_id", 3},
      {"eos_token_id", 4},
      {"hidden_act", "silu"},
      {"dtype", "float16"},
      {"torch_dtype", "float16"},
      {"attention_bias", false},
      {"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 5e5}}}};
  for (const auto& [key, value] : expected) EXPECT_EQ(config[key], value) << key;
  EXPECT_FALSE(config.contains("head_dim"));
  EXPECT_FALSE(config.contains("rope_scaling"));
  EXPECT_EQ(c->license(), "apache-2.0");
}

TEST(GgufRead, NamesOfEveryTensor) {
  TempDir dir;
  GgufBuilder b = metadata("qwen2");
  add_weights(b, true);
  b.f32_tensor("output.weight", {kVocab, kHidden}, ramp(kVocab * kHidden));
  const auto c = open(dir, b);
  for (const char* name :
       {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight",
        "model.layers.0.input_layernorm.weight", "model.layers.0.post_attention_layernorm.weight",
        "model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.k_proj.bias",
        "model.layers.0.self_attn.v_proj.weight", "model.layers.0.self_attn.o_proj.weight",
        "model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight",
        "model.layers.0.mlp.down_proj.weight"})
    EXPECT_TRUE(c->has(name)) << name;
  EXPECT_EQ(c->find("model.layers.0.mlp.down_proj.weight")->shape, (Shape{kHidden, kFfn}));
  EXPECT_EQ(c->find("model.layers.0.mlp.down_proj.weight")->stored_name, "blk.0.ffn_down.weight");
  EXPECT_EQ(c->config()["tie_word_embeddings"], false);
  const GgufArch& arch = *find_gguf_arch("llama");
  for (const char* odd : {"blk..attn_q.weight", "blk.0attn_q.weight", "blk.0", "blk.x.attn_q.weight",
                          "token_embd", "output.scale", "blk.0.attn_q.weight.weight"})
    EXPECT_EQ(hf_tensor_name(arch, odd), std::nullopt) << odd;
}

// The converter stores Hugging Face row i of a head as row 2i and row i + d/2 as row 2i + 1.
TEST(GgufRead, LlamaRowsOfQAndKArePutBack) {
  for (const std::string arch : {"llama", "qwen2"}) {
    TempDir dir;
    GgufBuilder b = metadata(arch);
    add_weights(b, true);
    if (arch == "llama") b.f32_tensor("blk.0.attn_output.bias", {kHidden}, ramp(kHidden));
    const auto c = open(dir, b);
    for (const auto& [name, rows] :
         {std::pair{"q", kHeads * kHeadDim}, {"k", kKvHeads * kHeadDim}, {"v", kKvHeads * kHeadDim}}) {
      const std::string module = std::string("model.layers.0.self_attn.") + name + "_proj";
      const Tensor weight = c->load_f32(module + ".weight", {rows, kHidden}),
                   bias = c->load_f32(module + ".bias", {rows});
      for (int64_t head = 0; head < rows / kHeadDim; ++head)
        for (int64_t stored = 0; stored < kHeadDim; ++stored) {
          const bool moved = arch == "llama" && *name != 'v';
          const int64_t i = !moved ? stored : stored % 2 == 0 ? stored / 2 : stored / 2 + kHeadDim / 2;
          const int64_t row = head * kHeadDim + i, stored_row = head * kHeadDim + stored;
          EXPECT_EQ(weight.f32()[row * kHidden + 3], static_cast<float>(stored_row * kHidden + 3))
              << arch << name << row;
          EXPECT_EQ(bias.f32()[row], static_cast<float>(stored_row)) << arch << name << row;
        }
    }
  }
}

TEST(GgufRead, BlockTypesBecomeFloatAndCountTheirBits) {
  // One Q4_1 block per row: d = 0.5, m = -1, nibbles l and 15 - l.
  std::string block = bytes_of<uint16_t>({f32_to_fp16(0.5f), f32_to_fp16(-1.0f)});
  for (int l = 0; l < 16; ++l) block += static_cast<char>(l | (15 - l) << 4);
  const auto rows = [&](int64_t n) {
    std::string bytes;
    for (int64_t i = 0; i < n; ++i) bytes += block;
    return bytes;
  };
  TempDir dir;
  GgufBuilder b = metadata("llama");
  b.tensor("token_embd.weight", 1, {kVocab, kHidden}, std::string(2 * kVocab * kHidden, '\0'));
  b.tensor("blk.0.attn_q.weight", 3, {32, 32}, rows(32)).tensor("blk.0.attn_v.weight", 3, {16, 32}, rows(16));
  auto c = open(dir, b);
  const Tensor v = c->load_f32("model.layers.0.self_attn.v_proj.weight", {16, 32});
  for (int i = 0; i < 16; ++i) {
    EXPECT_EQ(v.f32()[32 * 7 + i], 0.5f * static_cast<float>(i) - 1);
    EXPECT_EQ(v.f32()[32 * 7 + 16 + i], 0.5f * static_cast<float>(15 - i) - 1);
  }
  EXPECT_EQ(c->format().name, "Q4_1");
  EXPECT_EQ(c->format().bits_per_weight, 5.0);
  EXPECT_TRUE(c->format().quantized);

  b.tensor("blk.0.ffn_up.weight", 8, {32, 32}, std::string(32 * 34, '\0'));
  c = open(dir, b);
  EXPECT_EQ(c->format().name, "mixed Q4_1/Q8_0");
  EXPECT_EQ(c->format().bits_per_weight, (5.0 * 48 + 8.5 * 32) / 80);

  b.tensor("blk.0.ffn_gate.weight", 21, {1, 256}, std::string(110, '\0'));
  c = open(dir, b);
  EXPECT_THAT(error_of([&] { c->load("model.layers.0.mlp.gate_proj.weight"); }),
              AllOf(HasSubstr("unsupported"), HasSubstr("blk.0.ffn_gate.weight"), HasSubstr("IQ3_S"),
                    HasSubstr("Q4_1")));
}

TEST(GgufRead, PlainTypesAreViews) {
  TempDir dir;
  GgufBuilder b = metadata("qwen2");
  add_weights(b);
  const auto c = open(dir, b);
  EXPECT_EQ(c->load("model.norm.weight").bytes(), c->load("model.norm.weight").bytes());
}

TEST(GgufRead, NotFiniteNamesStoredTensor) {
  TempDir dir;
  GgufBuilder b = metadata("llama");
  add_weights(b);
  // A block whose factor is infinite.
  std::string bytes(16 * 20, '\0');
  const uint16_t infinity = 0x7c00;
  std::memcpy(bytes.data() + 5 * 20, &infinity, 2);
  bytes[5 * 20 + 4] = 1;
  b.tensor("blk.1.attn_v.weight", 3, {16, 32}, bytes);
  const auto c = open(dir, b);
  EXPECT_THAT(error_of([&] { c->load("model.layers.1.self_attn.v_proj.weight"); }),
              AllOf(HasSubstr("bad_file"), HasSubstr("m.gguf"), HasSubstr("blk.1.attn_v.weight"),
                    HasSubstr("got inf at element 160")));
}

std::vector<float> llama3_factors(double theta, double factor, double original) {
  std::vector<float> out;
  for (int64_t i = 0; i < kHeadDim / 2; ++i) {
    const double wavelength = 2 * std::numbers::pi * std::pow(theta, 2.0 * static_cast<double>(i) / kHeadDim);
    const double smooth = (original / wavelength - 1) / 3;
    out.push_back(static_cast<float>(smooth >= 1   ? 1
                                     : smooth <= 0 ? factor
                                                   : 1 / ((1 - smooth) / factor + smooth)));
  }
  return out;
}

TEST(GgufRead, RopeFactorsAreRecognisedAsLlama3) {
  for (const double factor : {8.0, 32.0}) {
    TempDir dir;
    GgufBuilder b = metadata("llama");
    add_weights(b);
    b.f32_tensor("rope_freqs.weight", {kHeadDim / 2}, llama3_factors(5e5, factor, 8192));
    const auto c = open(dir, b);
    const nlohmann::ordered_json rope = {
        {"rope_type", "llama3"},  {"rope_theta", 5e5},       {"factor", factor},
        {"low_freq_factor", 1.0}, {"high_freq_factor", 4.0}, {"original_max_position_embeddings", 8192}};
    EXPECT_EQ(c->config()["rope_parameters"], rope);
    EXPECT_EQ(c->config()["rope_scaling"]["factor"], factor);
    EXPECT_FALSE(c->has("rope_freqs.weight"));
    EXPECT_EQ(c->find("rope_freqs.weight"), nullptr);
  }
  GgufBuilder ones = metadata("llama"), odd = metadata("llama"), nan = metadata("llama"),
              shape = metadata("llama");
  for (GgufBuilder* b : {&ones, &odd, &nan, &shape}) add_weights(*b);
  ones.f32_tensor("rope_freqs.weight", {4}, {1, 1, 1, 1});
  TempDir dir;
  EXPECT_EQ(open(dir, ones)->config()["rope_parameters"]["rope_type"], "default");
  odd.f32_tensor("rope_freqs.weight", {4}, {1, 1, 3, 7});
  EXPECT_THAT(open_error(odd), AllOf(HasSubstr("unsupported"), HasSubstr("rope_freqs.weight")));
  nan.f32_tensor("rope_freqs.weight", {4}, {1, 1, std::numeric_limits<float>::quiet_NaN(), 8});
  EXPECT_THAT(open_error(nan), HasSubstr("rope_freqs.weight"));
  shape.f32_tensor("rope_freqs.weight", {3}, {1, 1, 1});
  EXPECT_THAT(open_error(shape), AllOf(HasSubstr("bad_file"), HasSubstr("expected shape [4], got [3]")));
}

TEST(GgufRead, LinearRopeScaling) {
  TempDir dir;
  GgufBuilder b = metadata("llama");
  b.text("llama.rope.scaling.type", "linear").f32("llama.rope.scaling.factor", 2.5f);
  add_weights(b);
  const nlohmann::ordered_json rope = {{"rope_type", "linear"}, {"rope_theta", 5e5}, {"factor", 2.5}};
  EXPECT_EQ(open(dir, b)->config()["rope_parameters"], rope);
}

// Metadata as the converter writes it for each architecture, beyond what `metadata` has.
TEST(GgufRead, Qwen3HasNormsPerHeadAndAnExplicitHeadDim) {
  TempDir dir;
  GgufBuilder b = metadata("qwen3");
  b.u32("qwen3.attention.key_length", 16).u32("qwen3.attention.value_length", 16);
  b.f32_tensor("token_embd.weight", {kVocab, kHidden}, ramp(kVocab * kHidden));
  b.f32_tensor("blk.0.attn_q.weight", {kHeads * 16, kHidden}, ramp(kHeads * 16 * kHidden));
  b.f32_tensor("blk.0.attn_q_norm.weight", {16}, ramp(16)).f32_tensor("blk.0.attn_k_norm.weight", {16}, ramp(16, 5));
  const auto c = open(dir, b);
  EXPECT_EQ(c->config()["model_type"], "qwen3");
  EXPECT_EQ(c->config()["head_dim"], 16);
  EXPECT_EQ(c->config()["attention_bias"], false);
  const Tensor norm = c->load_f32("model.layers.0.self_attn.k_norm.weight", {16});
  EXPECT_EQ(norm.f32()[1], 6.0f);
  const Tensor q = c->load_f32("model.layers.0.self_attn.q_proj.weight", {64, kHidden});
  EXPECT_EQ(q.f32()[kHidden], kHidden);  // not reordered
}

GgufBuilder phi3() {
  GgufBuilder b = metadata("phi3");
  b.u32("phi3.rope.dimension_count", 6).u32("phi3.rope.scaling.original_context_length", 64);
  b.u32("phi3.attention.sliding_window", 12);
  b.f32_tensor("token_embd.weight", {kVocab, kHidden}, ramp(kVocab * kHidden));
  const int64_t qkv = (kHeads + 2 * kKvHeads) * kHeadDim;
  b.f32_tensor("blk.0.attn_qkv.weight", {qkv, kHidden}, ramp(qkv * kHidden));
  b.f32_tensor("blk.0.ffn_up.weight", {2 * kFfn, kHidden}, ramp(2 * kFfn * kHidden));
  return b;
}

TEST(GgufRead, Phi3IsFusedPartlyRotatedAndWindowed) {
  TempDir dir;
  GgufBuilder b = phi3();
  const auto plain = open(dir, b)->config();
  EXPECT_EQ(plain["model_type"], "phi3");
  EXPECT_EQ(plain["sliding_window"], 12);
  EXPECT_EQ(plain["partial_rotary_factor"], 0.75);
  EXPECT_EQ(plain["rope_parameters"]["rope_type"], "default");
  EXPECT_FALSE(plain.contains("attention_bias"));

  b.f32_tensor("rope_factors_short.weight", {3}, {1.f, 1.05f, 1.1f}).f32_tensor("rope_factors_long.weight", {3}, {1.f, 7.3f, 30.f});
  b.f32("phi3.rope.scaling.attn_factor", 1.19f);
  const auto c = open(dir, b);
  const nlohmann::ordered_json rope = {{"rope_type", "longrope"},
                                       {"rope_theta", 5e5},
                                       {"original_max_position_embeddings", 64},
                                       {"short_factor", {1.0, 1.05, 1.1}},
                                       {"long_factor", {1.0, 7.3, 30.0}},
                                       {"attention_factor", 1.19}};
  EXPECT_EQ(c->config()["rope_parameters"], rope);
  EXPECT_EQ(c->config()["original_max_position_embeddings"], 64);
  EXPECT_EQ(c->find("rope_factors_long.weight"), nullptr);
  EXPECT_EQ(c->find("model.layers.0.self_attn.qkv_proj.weight")->shape, (Shape{64, kHidden}));
  EXPECT_EQ(c->find("model.layers.0.mlp.gate_up_proj.weight")->shape, (Shape{2 * kFfn, kHidden}));

  GgufBuilder one = phi3(), shape = phi3();
  one.f32_tensor("rope_factors_short.weight", {3}, {1, 1, 1});
  EXPECT_THAT(open_error(one), AllOf(HasSubstr("bad_file"), HasSubstr("rope_factors_long.weight")));
  shape.f32_tensor("rope_factors_short.weight", {3}, {1, 1, 1}).f32_tensor("rope_factors_long.weight", {2}, {1, 1});
  EXPECT_THAT(open_error(shape), HasSubstr("expected shape [3], got [2]"));
}

TEST(GgufRead, Phi3WithoutAWindowSaysNull) {
  TempDir dir;
  GgufBuilder b = metadata("phi3");
  b.u32("phi3.attention.sliding_window", 0);
  add_weights(b);
  EXPECT_THAT(error_of([&] { open(dir, b); }), HasSubstr("blk.0.attn_q.weight"));  // fused there, not here
  GgufBuilder fused = metadata("phi3");
  fused.u32("phi3.attention.sliding_window", 0);
  fused.f32_tensor("token_embd.weight", {kVocab, kHidden}, ramp(kVocab * kHidden));
  EXPECT_TRUE(open(dir, fused)->config()["sliding_window"].is_null());
}

TEST(GgufRead, LlamaWithAWindowIsMistral) {
  TempDir dir;
  GgufBuilder b = metadata("llama");
  b.u32("llama.attention.sliding_window", 4096);
  add_weights(b);
  const auto config = open(dir, b)->config();
  EXPECT_EQ(config["architectures"], nlohmann::ordered_json({"MistralForCausalLM"}));
  EXPECT_EQ(config["model_type"], "mistral");
  EXPECT_EQ(config["sliding_window"], 4096);
  EXPECT_FALSE(config.contains("attention_bias"));
}

TEST(GgufRead, YarnScaling) {
  TempDir dir;
  GgufBuilder b = metadata("qwen2");
  b.text("qwen2.rope.scaling.type", "yarn").f32("qwen2.rope.scaling.factor", 4.0f);
  b.u32("qwen2.rope.scaling.original_context_length", 32768).f32("qwen2.rope.scaling.yarn_beta_fast", 16.0f);
  add_weights(b, true);
  nlohmann::ordered_json rope = {{"rope_type", "yarn"},
                                 {"rope_theta", 5e5},
                                 {"factor", 4.0},
                                 {"original_max_position_embeddings", 32768},
                                 {"beta_fast", 16.0}};
  EXPECT_EQ(open(dir, b)->config()["rope_parameters"], rope);
  b.f32("qwen2.rope.scaling.attn_factor", 0.5f);
  EXPECT_NEAR(open(dir, b)->config()["rope_parameters"]["attention_factor"], 0.5 * (0.1 * std::log(4.0) + 1), 1e-12);
  b.f32("qwen2.rope.scaling.yarn_log_multiplier", 0.1f);
  EXPECT_THAT(open_error(b), AllOf(HasSubstr("unsupported"), HasSubstr("yarn_log_multiplier")));
}

TEST(GgufRead, WhatIsNotKnownIsNamed) {
  const auto with = [](const std::function<void(GgufBuilder&)>& change) {
    GgufBuilder b = metadata("llama");
    change(b);
    add_weights(b);
    return open_error(b);
  };
  EXPECT_THAT(open_error(metadata("mamba")),
              AllOf(HasSubstr("unsupported"), HasSubstr("'mamba'"), HasSubstr("llama, qwen2")));
  EXPECT_THAT(open_error(GgufBuilder()), AllOf(HasSubstr("bad_file"), HasSubstr("general.architecture")));
  EXPECT_THAT(open_error(metadata("llama")), AllOf(HasSubstr("bad_file"), HasSubstr("token_embd.weight")));
  EXPECT_THAT(with([](auto& b) { b.u32("llama.expert_count", 8); }),
              AllOf(HasSubstr("unsupported"), HasSubstr("expert_count")));
  EXPECT_THAT(with([](auto& b) { b.u32("llama.rope.dimension_count", 4); }),
              HasSubstr("rope.dimension_count"));
  EXPECT_THAT(with([](auto& b) { b.u32("llama.attention.sliding_window_pattern", 2); }),
              AllOf(HasSubstr("unsupported"), HasSubstr("sliding_window_pattern")));
  EXPECT_THAT(with([](auto& b) { b.u32("llama.attention.key_length", 0); }),
              AllOf(HasSubstr("bad_file"), HasSubstr("key_length")));
  EXPECT_THAT(with([](auto& b) { b.text("llama.rope.scaling.type", "su"); }), HasSubstr("'su'"));
  EXPECT_THAT(with([](auto& b) { b.f32_tensor("blk.0.ffn_gate_exps.weight", {1}, {1}); }),
              AllOf(HasSubstr("unsupported"), HasSubstr("blk.0.ffn_gate_exps.weight")));
  EXPECT_THAT(with([](auto& b) { b.f32_tensor("blk.0.attn_q.bias", {32}, ramp(32)); }),
              HasSubstr("attn_q.bias"));
  EXPECT_THAT(with([](auto& b) {
                b.texts("tokenizer.ggml.tokens", {"a", "b", "c", "d", "e", "f", "g"});
              }),
              AllOf(HasSubstr("bad_file"), HasSubstr("at most 6 tokens")));
  EXPECT_THAT(with([](auto& b) {
                b.f32_tensor("blk.1.attn_k.weight", {17, 1}, ramp(17));
              }),
              HasSubstr("expected rows for 2 heads"));
}

TEST(GgufRead, TruncationAnywhereIsABadFile) {
  TempDir dir;
  GgufBuilder b = metadata("llama");
  add_vocabulary(b);
  b.f32_tensor("token_embd.weight", {kVocab, 2}, ramp(2 * kVocab));
  const std::string whole = b.build();
  EXPECT_EQ(error_of([&] { Checkpoint::open(dir.write("m.gguf", whole)); }), "");
  for (size_t n = 0; n < whole.size(); ++n)
    EXPECT_THAT(error_of([&] { Checkpoint::open(dir.write("m.gguf", whole.substr(0, n))); }),
                HasSubstr("bad_file"))
        << n;
}

TEST(GgufRead, AnyChangedByteOpensOrIsRefused) {
  TempDir dir;
  GgufBuilder b = metadata("llama");
  add_vocabulary(b);
  b.f32_tensor("token_embd.weight", {kVocab, 2}, ramp(2 * kVocab))
      .f32_tensor("rope_freqs.weight", {4}, {1, 1, 1, 1});
  const std::string whole = b.build();
  for (size_t i = 0; i < whole.size(); ++i)
    for (const char c : {'\0', '\xff', '\x7f'}) {
      std::string changed = whole;
      changed[i] = c;
      const std::string error = error_of([&] {
        const auto checkpoint = Checkpoint::open(dir.write("m.gguf", changed));
        for (const StoredTensor& t : checkpoint->tensors()) checkpoint->load(t.name);
        gguf_vocab(*checkpoint->gguf());
      });
      EXPECT_TRUE(error.empty() || error.starts_with("bad_file") || error.starts_with("unsupported"))
          << error;
    }
}

TEST(GgufRead, VocabularyIsHandedOver) {
  TempDir dir;
  GgufBuilder b = metadata("llama");
  add_vocabulary(b);
  add_weights(b);
  const auto c = open(dir, b);
  const auto vocab = gguf_vocab(*c->gguf());
  ASSERT_TRUE(vocab);
  EXPECT_EQ(vocab->model, "gpt2");
  EXPECT_EQ(vocab->pre, "qwen2");
  EXPECT_THAT(vocab->tokens, ElementsAre("a", "b", "ab", "<s>", "</s>"));
  EXPECT_THAT(vocab->merges, ElementsAre("a b"));
  EXPECT_THAT(vocab->token_type, ElementsAre(1, 1, 1, 3, 3));
  EXPECT_EQ(vocab->bos, 3);
  EXPECT_EQ(vocab->eos, 4);
  EXPECT_EQ(vocab->pad, std::nullopt);
  EXPECT_EQ(vocab->add_bos, true);
  EXPECT_EQ(vocab->add_eos, std::nullopt);
  EXPECT_EQ(vocab->chat_template, "{{ x }}");

  const auto tokenizer = load_tokenizer(*c);
  EXPECT_THAT(tokenizer->encode("ab", false), ElementsAre(2));
}

TEST(GgufRead, SideFilesAreMadeFromMetadata) {
  TempDir dir;
  GgufBuilder b = metadata("llama");
  add_vocabulary(b);
  add_weights(b);
  const auto c = open(dir, b);
  std::map<std::string, std::string> files;
  for (const auto& f : c->side_files()) files[f.name] = f.contents;
  ASSERT_EQ(files.size(), 4u);
  EXPECT_EQ(files["chat_template.jinja"], "{{ x }}");
  EXPECT_TRUE(files.contains("tokenizer_config.json"));
  const auto generation = nlohmann::json::parse(files["generation_config.json"]);
  EXPECT_EQ(generation["eos_token_id"], nlohmann::json({4, 3}));  // end of text and end of turn
  EXPECT_EQ(generation["bos_token_id"], 3);
  const auto tokenizer = Tokenizer::from_json(files["tokenizer.json"], "tokenizer.json");
  EXPECT_THAT(tokenizer->encode("ab", false), ElementsAre(2));
}

TEST(GgufRead, BadTokenIdsAreNamed) {
  TempDir dir;
  GgufBuilder b = metadata("llama");
  b.text("tokenizer.ggml.model", "gpt2")
      .texts("tokenizer.ggml.tokens", {"a"})
      .u32("tokenizer.ggml.eos_token_id", 9);
  add_weights(b);
  const auto c = open(dir, b);
  EXPECT_THAT(error_of([&] { gguf_vocab(*c->gguf()); }),
              AllOf(HasSubstr("bad_file"), HasSubstr("eos_token_id"), HasSubstr("got 9")));
}

TEST(GgufRead, FolderWithOneGgufOpensIt) {
  TempDir dir;
  GgufBuilder b = metadata("llama");
  add_weights(b);
  open(dir, b);
  EXPECT_TRUE(Checkpoint::open(dir.path())->is_gguf());
  dir.write("n.gguf", "x");
  EXPECT_THAT(error_of([&] { Checkpoint::open(dir.path()); }),
              AllOf(HasSubstr("not_found"), HasSubstr("m.gguf")));
}

}  // namespace
}  // namespace awq
