#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "checkpoint/model_card.h"
#include "checkpoint/output_config.h"
#include "unit/checkpoint/write_fixture.h"

namespace awq {
namespace {

using nlohmann::ordered_json;
using testing::expect_error;
using testing::small_manifest;

std::vector<std::string> keys(const ordered_json& object) {
  std::vector<std::string> out;
  for (const auto& [key, value] : object.items()) out.push_back(key);
  return out;
}

TEST(OutputConfig, AddsExactlyWhatLoadersRead) {
  const auto source =
      ordered_json::parse(R"({"model_type":"llama","torch_dtype":"bfloat16","rope_theta":10000.0,
    "eos_token_id":[1,2],"vocab_size":49152})");
  const ordered_json out =
      quantized_config(source, {.group_size = 64, .modules_to_not_convert = {"lm_head"}}, DType::kF16);
  EXPECT_EQ(
      out.dump(),
      R"({"model_type":"llama","torch_dtype":"float16","rope_theta":10000.0,"eos_token_id":[1,2],"vocab_size":49152,)"
      R"("quantization_config":{"quant_method":"awq","bits":4,"group_size":64,"zero_point":true,"version":"gemm",)"
      R"("modules_to_not_convert":["lm_head"]}})");
}

TEST(OutputConfig, WritesNullForAnEmptyListAndTrueForSymmetric) {
  const ordered_json out =
      quantized_config(ordered_json::object(), AwqConfig{4, -1, false, "gemm", {}}, DType::kBF16);
  EXPECT_TRUE(out["quantization_config"]["modules_to_not_convert"].is_null());
  EXPECT_EQ(out["quantization_config"]["zero_point"], true);
  EXPECT_EQ(out["quantization_config"]["group_size"], -1);
  EXPECT_EQ(out["torch_dtype"], "bfloat16");
  EXPECT_FALSE(out.contains("dtype"));
}

TEST(OutputConfig, ServesBothSpellingsOfTheDtype) {
  const struct {
    const char *source, *expected;
  } cases[] = {
      {R"({"dtype":"bfloat16","a":1})", R"({"dtype":"float16","a":1,"torch_dtype":"float16"})"},
      {R"({"torch_dtype":"bfloat16","dtype":"bfloat16"})", R"({"torch_dtype":"float16","dtype":"float16"})"},
      {R"({"rope_parameters":{}})", R"({"rope_parameters":{},"dtype":"float16","torch_dtype":"float16"})"},
      {R"({"transformers_version":"5.2.0"})",
       R"({"transformers_version":"5.2.0","dtype":"float16","torch_dtype":"float16"})"},
      {R"({"transformers_version":"4.57.1"})",
       R"({"transformers_version":"4.57.1","torch_dtype":"float16"})"},
      {R"({"text_config":{"dtype":"bfloat16","x":1}})",
       R"({"text_config":{"dtype":"float16","x":1},"torch_dtype":"float16"})"},
  };
  for (const auto& c : cases)
    EXPECT_EQ(dense_config(ordered_json::parse(c.source), DType::kF16).dump(), c.expected);
}

TEST(OutputConfig, DropsOtherToolsMarks) {
  const auto source =
      ordered_json::parse(R"({"quantization_config":{"quant_method":"gptq"},"a":1,"compression_config":{},
    "quantization":{"bits":4},"text_config":{"quantization_config":{}}})");
  const ordered_json dense = dense_config(source, DType::kF32);
  EXPECT_EQ(keys(dense), (std::vector<std::string>{"a", "text_config", "torch_dtype"}));
  EXPECT_TRUE(dense["text_config"].empty());
  EXPECT_EQ(dense["torch_dtype"], "float32");
  const ordered_json quantized = quantized_config(source, {}, DType::kF16);
  EXPECT_EQ(keys(quantized),
            (std::vector<std::string>{"quantization_config", "a", "text_config", "torch_dtype"}));
  EXPECT_EQ(keys(quantized["quantization_config"]),
            (std::vector<std::string>{"quant_method", "bits", "group_size", "zero_point", "version",
                                      "modules_to_not_convert"}));
}

TEST(OutputConfig, RefusesWhatTheFormatCannotSay) {
  expect_error(Code::kInternal, "expected 4 bits", [] {
    quantized_config(ordered_json::object(), AwqConfig{3, 64, true, "gemm", {}}, DType::kF16);
  });
  expect_error(Code::kInternal, "I8 is not a dtype of plain weights",
               [] { dense_config(ordered_json::object(), DType::kI8); });
  expect_error(Code::kBadFile, "config.json: expected an object, got array",
               [] { dense_config(ordered_json::array(), DType::kF16); });
}

CardFacts facts() {
  return {.name = "qwen-awq",
          .base_model = "Qwen/Qwen2-0.5B",
          .license = "apache-2.0",
          .bits_per_weight = 4.31,
          .command = "awq quantize Qwen/Qwen2-0.5B -o qwen-awq"};
}

TEST(ModelCard, OpensWithTheFrontMatterHubsRead) {
  const std::string card = model_card(facts(), small_manifest());
  EXPECT_TRUE(card.starts_with(
      "---\nbase_model: Qwen/Qwen2-0.5B\nbase_model_relation: quantized\nlicense: apache-2.0\nlibrary_name: "
      "transformers\n"
      "pipeline_tag: text-generation\ntags:\n- awq\n- 4-bit\n- quantized\n---\n\n# qwen-awq\n"))
      << card;
}

TEST(ModelCard, SaysWhatWasMeasuredHowItWasMadeAndHowToRunIt) {
  const std::string card = model_card(facts(), small_manifest());
  for (const char* part :
       {"1 linear layers at `w4g8z`, 4.31 bits per weight", "| perplexity | 9.71 | 9.89 (+1.9 %) |",
        "0.0310 ± 0.0020", "| 92.4 % |", "on 16384 tokens of builtin held-out",
        "awq quantize Qwen/Qwen2-0.5B -o qwen-awq\n", "- calibration: `builtin`, 128 samples, 65536 tokens",
        "\nvllm serve ./qwen-awq\n", "awq generate qwen-awq -p", "from_pretrained(\"./qwen-awq\"",
        "gptqmodel", "source was stored as BF16"})
    EXPECT_NE(card.find(part), std::string::npos) << part << "\n" << card;
  EXPECT_EQ(card.find("--quantization"), std::string::npos);  // loaders read it from config.json
}

TEST(ModelCard, LeavesOutWhatIsUnknownAndQuotesWhatYamlWouldMisread) {
  CardFacts f = facts();
  f.license.clear();
  f.base_model = "no: model #1\nlicense: mit";
  Manifest m = small_manifest();
  m.check.reset();
  m.calibration.reset();
  m.method = "rtn";
  m.format = "dense";
  m.scheme = "w3g64z";
  const std::string card = model_card(f, m);
  EXPECT_TRUE(card.starts_with(
      "---\nbase_model: \"no: model #1\\nlicense: mit\"\nbase_model_relation: quantized\n"
      "library_name: transformers\npipeline_tag: text-generation\ntags:\n- 3-bit\n- quantized\n---\n"))
      << card;
  for (const char* part : {"## Check", "calibration", "gptqmodel", "AutoAWQ"})
    EXPECT_EQ(card.find(part), std::string::npos) << part;
  EXPECT_NE(card.find("rounding to nearest"), std::string::npos);
  EXPECT_NE(card.find("stored as plain tensors"), std::string::npos);
}

}  // namespace
}  // namespace awq
