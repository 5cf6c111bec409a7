// config.json in its spellings, and what is said about wrong ones.
#include "model/config.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "model/arch.h"

namespace awq {
namespace {

using Json = nlohmann::ordered_json;

Json llama() {
  return Json::parse(
      R"({"model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 128, "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": [2, 7]})");
}

Json with(const char* patch) {
  Json json = llama();
  json.merge_patch(Json::parse(patch));
  return json;
}

TEST(ModelConfig, ReadsWhatItSays) {
  const ModelConfig c = parse_model_config(llama(), "config.json");
  EXPECT_EQ(c.model_type, "llama");
  EXPECT_EQ(c.hidden, 64);
  EXPECT_EQ(c.intermediate, 96);
  EXPECT_EQ(c.layers, 2);
  EXPECT_EQ(c.heads, 4);
  EXPECT_EQ(c.kv_heads, 2);
  EXPECT_EQ(c.head_dim, 16);
  EXPECT_EQ(c.vocab, 128);
  EXPECT_EQ(c.max_position, 256);
  EXPECT_FLOAT_EQ(c.rms_eps, 1e-5f);
  EXPECT_TRUE(c.tied);
  EXPECT_FALSE(c.qkv_bias || c.o_bias || c.mlp_bias);
  EXPECT_EQ(c.eos, (std::vector<int32_t>{2, 7}));
  EXPECT_EQ(c.bos, 1);
}

TEST(ModelConfig, LeftOutOrNullMeansTheDefault) {
  const ModelConfig c = parse_model_config(
      with(
          R"({"num_key_value_heads": null, "rms_norm_eps": null, "rope_theta": null, "tie_word_embeddings": null,
               "max_position_embeddings": null, "eos_token_id": null, "bos_token_id": null, "head_dim": null})"),
      "config.json");
  EXPECT_EQ(c.kv_heads, 4);
  EXPECT_EQ(c.head_dim, 16);
  EXPECT_FLOAT_EQ(c.rms_eps, 1e-6f);
  EXPECT_EQ(c.rope.theta, 10000);
  EXPECT_FALSE(c.tied);
  EXPECT_EQ(c.max_position, 2048);
  EXPECT_TRUE(c.eos.empty());
  EXPECT_EQ(c.bos, -1);
}

TEST(ModelConfig, Biases) {
  struct Case {
    const char* patch;
    bool qkv, o, mlp;
  };
  for (const Case& c : {Case{R"({"attention_bias": true})", true, true, false},
                        Case{R"({"mlp_bias": true})", false, false, true},
                        Case{R"({"model_type": "qwen2"})", true, false, false},
                        Case{R"({"model_type": "qwen2", "attention_bias": false})", true, false, false}}) {
    const ModelConfig config = parse_model_config(with(c.patch), "config.json");
    EXPECT_EQ(config.qkv_bias, c.qkv) << c.patch;
    EXPECT_EQ(config.o_bias, c.o) << c.patch;
    EXPECT_EQ(config.mlp_bias, c.mlp) << c.patch;
  }
}

TEST(ModelConfig, ErrorsNameFileKeyAndValue) {
  struct Case {
    const char* patch;
    Code code;
    const char* message;  // after "m/config.json: "
  };
  const Case cases[] = {
      {R"({"model_type": "gpt_oss"})", Code::kUnsupported,
       "model_type 'gpt_oss' is not supported (known: llama, mistral, ministral, qwen2, qwen3, phi3, gemma2, gemma3_text)"},
      {R"({"model_type": null})", Code::kUnsupported, "model_type '' is not supported (known: llama, mistral, ministral, qwen2, qwen3, phi3, gemma2, gemma3_text)"},
      {R"({"model_type": 3})", Code::kBadFile, "'model_type': expected a string, got 3"},
      {R"({"hidden_size": null})", Code::kBadFile, "'hidden_size': expected a positive number, got nothing"},
      {R"({"hidden_size": 0})", Code::kBadFile, "'hidden_size': expected a positive number, got 0"},
      {R"({"hidden_size": "64"})", Code::kBadFile, "'hidden_size': expected a number, got \"64\""},
      {R"({"hidden_size": 64.5})", Code::kBadFile, "'hidden_size': expected a whole number, got 64.5"},
      {R"({"num_hidden_layers": -1})", Code::kBadFile,
       "'num_hidden_layers': expected a whole number, got -1"},
      {R"({"intermediate_size": null})", Code::kBadFile,
       "'intermediate_size': expected a positive number, got nothing"},
      {R"({"num_attention_heads": null})", Code::kBadFile,
       "'num_attention_heads': expected a positive number, got nothing"},
      {R"({"vocab_size": null})", Code::kBadFile, "'vocab_size': expected a positive number, got nothing"},
      {R"({"vocab_size": 1e13})", Code::kBadFile,
       "'vocab_size': expected a whole number, got 10000000000000"},
      {R"({"num_key_value_heads": 3})", Code::kBadFile,
       "num_attention_heads 4 is not a multiple of num_key_value_heads 3"},
      {R"({"num_key_value_heads": 0})", Code::kBadFile,
       "'num_key_value_heads': expected a positive number, got 0"},
      {R"({"rms_norm_eps": -1})", Code::kBadFile, "'rms_norm_eps': expected a number from 0 to 1, got -1"},
      {R"({"head_dim": 15})", Code::kBadFile, "head_dim: expected an even number, got 15"},
      {R"({"tie_word_embeddings": "yes"})", Code::kBadFile,
       "'tie_word_embeddings': expected true or false, got \"yes\""},
      {R"({"hidden_act": "gelu"})", Code::kUnsupported, "hidden_act 'gelu' is not supported (known: silu)"},
      {R"({"use_sliding_window": true})", Code::kUnsupported,
       "use_sliding_window is not supported for model_type 'llama'"},
      {R"({"rope_theta": -1})", Code::kBadFile, "rope_theta: expected a positive number, got -1"},
      {R"({"rope_scaling": 4})", Code::kBadFile, "rope parameters: expected an object, got 4"},
      {R"({"rope_scaling": {"type": "mrope", "factor": 2}})", Code::kUnsupported,
       "rope type 'mrope' is not supported (known: default, linear, dynamic, llama3, yarn, longrope)"},
      {R"({"rope_parameters": {"full_attention": {"rope_type": "default"}}})", Code::kUnsupported,
       "rope parameters: expected one set for all layers, got some for 'full_attention'"},
      {R"({"rope_scaling": {"type": "yarn", "factor": 2, "beta_fast": -1}})", Code::kBadFile,
       "rope scaling: 'beta_fast': expected a positive number, got -1"},
      {R"({"rope_scaling": {"type": "longrope", "long_factor": [1, 1, 1, 1, 1, 1, 1, 1], "short_factor": [1]}})", Code::kBadFile,
       "'short_factor': expected a list of 8 numbers, got 1"},
      {R"({"rope_scaling": {"type": "longrope", "short_factor": [1, 1, 1, 1, 1, 1, 1, 0]}})", Code::kBadFile,
       "'short_factor': expected positive numbers, got 0"},
      {R"({"rope_scaling": {"type": "dynamic", "factor": 0.5}})", Code::kBadFile,
       "dynamic rope scaling: expected a factor of at least 1 and more than one pair, got 0.5 and 8"},
      {R"({"partial_rotary_factor": 0.3125})", Code::kBadFile,
       "'partial_rotary_factor': expected an even part of the 16 elements of a head, got 0.3125"},
      {R"({"model_type": "mistral", "sliding_window": 8, "layer_types": ["full_attention"]})", Code::kBadFile,
       "'layer_types': expected a list of 2 names, got 1"},
      {R"({"model_type": "mistral", "sliding_window": 8, "layer_types": ["chunked_attention", "full_attention"]})", Code::kUnsupported,
       "layer type 'chunked_attention' is not supported (known: full_attention, sliding_attention)"},
      {R"({"model_type": "gemma3_text", "hidden_activation": "gelu"})", Code::kUnsupported,
       "hidden_activation 'gelu' is not supported (known: gelu_pytorch_tanh)"},
      {R"({"model_type": "gemma3_text", "use_bidirectional_attention": true})", Code::kUnsupported,
       "use_bidirectional_attention is not supported: expected causal attention"},
      {R"({"model_type": "gemma2", "attn_logit_softcapping": -1})", Code::kBadFile,
       "'attn_logit_softcapping': expected a positive number or null, got -1"},
      {R"({"model_type": "gemma2", "query_pre_attn_scalar": 0})", Code::kBadFile,
       "'query_pre_attn_scalar': expected a positive number, got 0"},
      {R"({"model_type": "gemma3_text", "sliding_window_pattern": 0})", Code::kBadFile,
       "'sliding_window_pattern': expected a positive number, got 0"},
      {R"({"model_type": "gemma3_text", "rope_parameters": {"sliding_attention": 3}})", Code::kBadFile,
       "rope parameters: expected an object, got 3"},
      {R"({"rope_scaling": {"type": "linear", "factor": 0}})", Code::kBadFile,
       "rope scaling: expected factor > 0 and 0 < low_freq_factor < high_freq_factor, got 0, 1, 4"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.patch);
    try {
      parse_model_config(with(c.patch), "m/config.json");
      ADD_FAILURE() << "accepted";
    } catch (const Error& e) {
      EXPECT_STREQ(code_name(e.code()), code_name(c.code));
      EXPECT_EQ(e.what(), std::string("m/config.json: ") + c.message);
    }
  }
}

TEST(ModelConfig, AnythingButAnObjectIsRefused) {
  for (const char* text : {"[]", "3", "null", "\"llama\""})
    EXPECT_THROW(parse_model_config(Json::parse(text), "config.json"), Error) << text;
}

TEST(Rope, FrequenciesAreTransformers) {
  std::ifstream in(std::string(AWQ_TEST_DATA) + "/model/rope.json");
  const Json recorded = Json::parse(in);
  EXPECT_GE(recorded["cases"].size(), 6u);
  for (const Json& c : recorded["cases"]) {
    SCOPED_TRACE(c["name"].get<std::string>());
    Json json = llama();
    json.update(c["config"]);
    const std::vector<double> got = rope_inv_freq(parse_model_config(json, "config.json").rope);
    const auto want = c["inv_freq"].get<std::vector<double>>();
    ASSERT_EQ(got.size(), want.size());
    for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got[i] / want[i], 1, 2e-6) << "pair " << i;
  }
}

// A reader of a site that no scale group lists would see scaled inputs with unscaled weights.
TEST(Arch, EveryReaderOfASiteIsInItsScaleGroup) {
  for (const std::string& type : known_archs()) {
    Json json = llama();
    json["model_type"] = type;
    const ModelConfig config = parse_model_config(json, "config.json");
    const BlockSpec block = find_arch(type, "config.json").block(config, 1);
    std::vector<std::string> grouped;
    for (const ScaleGroup& group : block.scale_groups)
      for (const std::string& module : group.consumers) grouped.push_back(module);
    for (const LinearSpec& linear : block.linears) {
      EXPECT_EQ(std::count(grouped.begin(), grouped.end(), linear.module), 1) << linear.module;
      for (const ScaleGroup& group : block.scale_groups) {
        const bool listed = std::count(group.consumers.begin(), group.consumers.end(), linear.module) > 0;
        EXPECT_EQ(listed, linear.reads == group.site) << linear.module;
      }
    }
  }
}

}  // namespace
}  // namespace awq
