// config.json as models are published (tests/data/configs: the keys that matter; longrope's lists have the published length,
// not the published numbers) and what each must be read as.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "model/arch.h"
#include "model/config.h"
#include "model/model.h"

namespace awq {
namespace {

struct Published {
  const char* file;
  const char* model_type;
  int64_t layers, hidden, intermediate, heads, kv_heads, head_dim, vocab, context;
  bool tied, qkv_bias;
  RopeType rope;
  double theta;
  int64_t rotated, window;
  double eps;
  int32_t eos;
};

constexpr RopeType kPlain = RopeType::kDefault, kLlama3 = RopeType::kLlama3, kYarn = RopeType::kYarn, kLong = RopeType::kLongRope;

// clang-format off
const Published kModels[] = {
    // file                          type       layers hidden  inter heads kv  dim  vocab  context  tied   bias   rope     theta turn window eps   eos
    {"qwen2.5-0.5b",                 "qwen2",    24,  896,  4864, 14,  2,  64, 151936,  32768, true,  true,  kPlain,  1e6,  64,     0, 1e-6, 151643},
    {"qwen2.5-7b-instruct",          "qwen2",    28, 3584, 18944, 28,  4, 128, 152064,  32768, false, true,  kPlain,  1e6, 128,     0, 1e-6, 151645},
    {"qwen2.5-7b-instruct-yarn",     "qwen2",    28, 3584, 18944, 28,  4, 128, 152064, 131072, false, true,  kYarn,   1e6, 128,     0, 1e-6, 151645},
    {"llama-3.1-8b-instruct",        "llama",    32, 4096, 14336, 32,  8, 128, 128256, 131072, false, false, kLlama3, 5e5, 128,     0, 1e-5, 128001},
    {"llama-3.2-1b",                 "llama",    16, 2048,  8192, 32,  8,  64, 128256, 131072, true,  false, kLlama3, 5e5,  64,     0, 1e-5, 128001},
    {"smollm-135m",                  "llama",    30,  576,  1536,  9,  3,  64,  49152,   2048, true,  false, kPlain,  1e4,  64,     0, 1e-5, 0},
    {"smollm2-135m-instruct",        "llama",    30,  576,  1536,  9,  3,  64,  49152,   8192, true,  false, kPlain,  1e5,  64,     0, 1e-5, 2},
    {"smollm2-360m-instruct",        "llama",    32,  960,  2560, 15,  5,  64,  49152,   8192, true,  false, kPlain,  1e5,  64,     0, 1e-5, 2},
    {"smollm2-1.7b-instruct",        "llama",    24, 2048,  8192, 32, 32,  64,  49152,   8192, true,  false, kPlain, 1.3e5, 64,     0, 1e-5, 2},
    {"tinyllama-1.1b-chat-v1.0",     "llama",    22, 2048,  5632, 32,  4,  64,  32000,   2048, false, false, kPlain,  1e4,  64,     0, 1e-5, 2},
    {"yi-6b",                        "llama",    32, 4096, 11008, 32,  4, 128,  64000,   4096, false, false, kPlain,  5e6, 128,     0, 1e-5, 2},
    {"deepseek-r1-distill-qwen-1.5b","qwen2",    28, 1536,  8960, 12,  2, 128, 151936, 131072, false, true,  kPlain,  1e4, 128,     0, 1e-6, 151643},
    {"deepseek-r1-distill-llama-8b", "llama",    32, 4096, 14336, 32,  8, 128, 128256, 131072, false, false, kLlama3, 5e5, 128,     0, 1e-5, 128001},
    {"mistral-7b-v0.1",              "mistral",  32, 4096, 14336, 32,  8, 128,  32000,  32768, false, false, kPlain,  1e4, 128,  4096, 1e-5, 2},
    {"mistral-7b-instruct-v0.3",     "mistral",  32, 4096, 14336, 32,  8, 128,  32768,  32768, false, false, kPlain,  1e6, 128,     0, 1e-5, 2},
    {"mistral-nemo-instruct-2407",   "mistral",  40, 5120, 14336, 32,  8, 128, 131072, 131072, false, false, kPlain,  1e6, 128,     0, 1e-5, 2},
    {"qwen3-0.6b",                   "qwen3",    28, 1024,  3072, 16,  8, 128, 151936,  40960, true,  false, kPlain,  1e6, 128,     0, 1e-6, 151645},
    {"qwen3-8b",                     "qwen3",    36, 4096, 12288, 32,  8, 128, 151936,  40960, false, false, kPlain,  1e6, 128,     0, 1e-6, 151645},
    {"phi-3-mini-4k-instruct",       "phi3",     32, 3072,  8192, 32, 32,  96,  32064,   4096, false, false, kPlain,  1e4,  96,  2047, 1e-5, 32000},
    {"phi-3-mini-128k-instruct",     "phi3",     32, 3072,  8192, 32, 32,  96,  32064, 131072, false, false, kLong,   1e4,  96, 262144, 1e-5, 32000},
    {"phi-4",                        "phi3",     40, 5120, 17920, 40, 10, 128, 100352,  16384, false, false, kPlain, 2.5e5, 128,    0, 1e-5, 100265},
    {"phi-4-mini-instruct",          "phi3",     32, 3072,  8192, 24,  8, 128, 200064, 131072, true,  false, kLong,   1e4,  96, 262144, 1e-5, 199999},
    {"gemma-2-2b",                   "gemma2",   26, 2304,  9216,  8,  4, 256, 256000,   8192, true,  false, kPlain,  1e4, 256,  4096, 1e-6, 1},
    {"gemma-3-1b-it",                "gemma3_text", 26, 1152, 6912, 4, 1, 256, 262144,  32768, true,  false, kPlain,  1e6, 256,   512, 1e-6, 1},
};
// clang-format on

ModelConfig published(const std::string& name) {
  const std::string path = std::string(AWQ_TEST_DATA) + "/configs/" + name + ".json";
  std::ifstream in(path);
  return parse_model_config(nlohmann::ordered_json::parse(in), path);
}

TEST(PublishedConfigs, AreReadAsTheyAreMeant) {
  for (const Published& p : kModels) {
    SCOPED_TRACE(p.file);
    const ModelConfig c = published(p.file);
    EXPECT_EQ(c.model_type, p.model_type);
    EXPECT_EQ(c.layers, p.layers);
    EXPECT_EQ(c.hidden, p.hidden);
    EXPECT_EQ(c.intermediate, p.intermediate);
    EXPECT_EQ(c.heads, p.heads);
    EXPECT_EQ(c.kv_heads, p.kv_heads);
    EXPECT_EQ(c.head_dim, p.head_dim);
    EXPECT_EQ(c.vocab, p.vocab);
    EXPECT_EQ(c.max_position, p.context);
    EXPECT_EQ(c.tied, p.tied);
    EXPECT_EQ(c.qkv_bias, p.qkv_bias);
    EXPECT_FALSE(c.o_bias || c.mlp_bias);
    EXPECT_EQ(c.qk_norm, c.model_type == "qwen3" || c.model_type == "gemma3_text");
    EXPECT_STREQ(rope_type_name(c.rope.type), rope_type_name(p.rope));
    EXPECT_EQ(c.rope.theta, p.theta);
    EXPECT_EQ(c.rope.dim, p.rotated);
    const int64_t every = c.model_type == "gemma2" ? 2 : c.model_type == "gemma3_text" ? 6 : c.layers + 1;
    for (int64_t i = 0; i < c.layers; ++i) EXPECT_EQ(c.window(i), (i + 1) % every == 0 ? 0 : p.window) << i;
    EXPECT_FLOAT_EQ(c.rms_eps, static_cast<float>(p.eps));
    ASSERT_FALSE(c.eos.empty());
    EXPECT_EQ(c.eos.front(), p.eos);
    EXPECT_EQ(rope_inv_freq(c.rope, 1).size(), static_cast<size_t>(p.rotated / 2));
  }
}

TEST(PublishedConfigs, EveryFileIsInTheTable) {
  for (const auto& entry : std::filesystem::directory_iterator(std::string(AWQ_TEST_DATA) + "/configs")) {
    const std::string name = entry.path().stem().string();
    EXPECT_TRUE(std::any_of(std::begin(kModels), std::end(kModels), [&](const Published& p) { return name == p.file; })) << name;
  }
}

TEST(PublishedConfigs, ScalingBeyondThePlainNumbers) {
  const RopeConfig llama = published("llama-3.2-1b").rope, yarn = published("qwen2.5-7b-instruct-yarn").rope;
  EXPECT_EQ(llama.factor, 32);
  EXPECT_EQ(llama.original_max_position, 8192);
  EXPECT_EQ(yarn.original_max_position, 32768);
  EXPECT_NEAR(yarn.magnitude, 0.1 * std::log(4.0) + 1, 1e-12);
  for (const char* phi : {"phi-3-mini-128k-instruct", "phi-4-mini-instruct"}) {
    const RopeConfig rope = published(phi).rope;
    EXPECT_EQ(rope.original_max_position, 4096) << phi;
    EXPECT_NEAR(rope.magnitude, 1.190238, 1e-6) << phi;  // sqrt(1 + ln 32 / ln 4096)
  }
  EXPECT_EQ(published("llama-3.1-8b-instruct").eos, (std::vector<int32_t>{128001, 128008, 128009}));
}

TEST(PublishedConfigs, WhatOnlyGemmaHas) {
  const ModelConfig second = published("gemma-2-2b"), third = published("gemma-3-1b-it"), llama = published("llama-3.2-1b");
  for (const ModelConfig& c : {second, third}) {
    EXPECT_EQ(c.activation, Activation::kGeluTanh);
    EXPECT_EQ(c.norm_offset, 1);
    EXPECT_EQ(c.attention_scale, 1.0f / 16);
    EXPECT_EQ(embedding_scale(c, DType::kF32), static_cast<float>(std::sqrt(static_cast<double>(c.hidden))));
  }
  EXPECT_EQ(embedding_scale(third, DType::kBF16), 34.0f);  // of 33.94
  EXPECT_EQ(embedding_scale(third, DType::kF16), 33.9375f);
  EXPECT_EQ(second.attention_softcap, 50);
  EXPECT_EQ(second.final_softcap, 30);
  EXPECT_EQ(third.attention_softcap, 0);
  EXPECT_EQ(third.final_softcap, 0);
  EXPECT_FALSE(second.window_rope);
  EXPECT_EQ(third.layer_rope(0).theta, 1e4);
  EXPECT_EQ(third.layer_rope(5).theta, 1e6);
  EXPECT_EQ(llama.norm_offset, 0);
  EXPECT_EQ(embedding_scale(llama, DType::kBF16), 1);
  EXPECT_EQ(llama.attention_scale, 0.125f);
}

// Parameters of the linears, in billions, as the models' names have them (embeddings and norms apart).
TEST(PublishedConfigs, BlocksHaveTheParametersOfTheModel) {
  const std::pair<const char*, double> sizes[] = {{"qwen2.5-0.5b", 0.358}, {"llama-3.1-8b-instruct", 6.979}, {"mistral-nemo-instruct-2407", 10.905},
                                                  {"qwen3-0.6b", 0.440},   {"phi-3-mini-4k-instruct", 3.624}, {"phi-4", 13.632},
                                                  {"gemma-2-2b", 2.024},   {"gemma-3-1b-it", 0.698}};
  for (const auto& [name, billions] : sizes) {
    const ModelConfig c = published(name);
    double weights = 0;
    for (int64_t i = 0; i < c.layers; ++i)
      for (const LinearSpec& l : find_arch(c.model_type, name).block(c, i).linears) weights += static_cast<double>(l.out * l.in);
    EXPECT_NEAR(weights / 1e9, billions, 0.001) << name;
  }
}

TEST(ModelConfig, WhatEachArchitectureMeansBySilence) {
  const auto parse = [](const std::string& patch) {
    auto json = nlohmann::ordered_json::parse(R"({"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4,
      "num_attention_heads": 32, "vocab_size": 100})");
    json.update(nlohmann::ordered_json::parse(patch));
    return parse_model_config(json, "config.json");
  };
  const ModelConfig mistral = parse(R"({"model_type": "mistral"})"), qwen3 = parse(R"({"model_type": "qwen3"})"),
                    phi3 = parse(R"({"model_type": "phi3"})"), llama = parse(R"({"model_type": "llama"})");
  EXPECT_EQ(mistral.kv_heads, 8);
  EXPECT_EQ(mistral.sliding_window, 4096);
  EXPECT_EQ(mistral.max_position, 131072);
  EXPECT_EQ(qwen3.head_dim, 128);
  EXPECT_EQ(qwen3.sliding_window, 0);
  EXPECT_EQ(phi3.kv_heads, 32);
  EXPECT_FLOAT_EQ(phi3.rms_eps, 1e-5f);
  EXPECT_EQ(phi3.sliding_window, 0);
  EXPECT_EQ(llama.max_position, 2048);
  const ModelConfig gemma = parse(R"({"model_type": "gemma3_text"})");
  EXPECT_TRUE(gemma.tied);
  EXPECT_EQ(gemma.kv_heads, 4);
  EXPECT_EQ(gemma.head_dim, 256);
  EXPECT_EQ(gemma.rope.theta, 1e6);
  EXPECT_EQ(gemma.window_rope->theta, 1e4);
  EXPECT_EQ(gemma.window(3), 4096);
  EXPECT_EQ(parse(R"({"model_type": "mistral", "sliding_window": null, "num_key_value_heads": null})").sliding_window, 0);
  EXPECT_EQ(parse(R"({"model_type": "mistral", "num_key_value_heads": null})").kv_heads, 32);
  const ModelConfig upper = parse(R"({"model_type": "qwen2", "use_sliding_window": true, "sliding_window": 8, "max_window_layers": 3})");
  EXPECT_EQ(upper.window(2), 0);
  EXPECT_EQ(upper.window(3), 8);
  EXPECT_EQ(parse(R"({"model_type": "llama", "max_position_embeddings": 1000, "rope_scaling": {"type": "dynamic", "factor": 2}})").max_position,
            2000);
}

}  // namespace
}  // namespace awq
