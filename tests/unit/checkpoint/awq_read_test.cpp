#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "base/half.h"
#include "checkpoint/checkpoint.h"
#include "unit/formats/files.h"

namespace awq {
namespace {

using namespace test;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr const char* kModule = "model.layers.0.mlp.up_proj";

// One packed linear of 8 outputs and 16 inputs in groups of 8: code (n + 3k) mod 16, zero point n, scale
// 2^-g.
QuantWeight example() {
  QuantWeight q;
  q.scheme = {.bits = 4, .group = 8};
  q.rows = 8;
  q.cols = 16;
  for (int n = 0; n < 8; ++n)
    for (int k = 0; k < 16; ++k) q.codes.push_back(static_cast<uint8_t>((n + 3 * k) % 16));
  for (int n = 0; n < 8; ++n)
    for (int g = 0; g < 2; ++g) {
      q.zeros.push_back(static_cast<uint8_t>(n));
      q.scales.push_back(g == 0 ? 1.0f : 0.5f);
    }
  return q;
}

std::string bytes_of_tensor(const Tensor& t) {
  return {reinterpret_cast<const char*>(t.bytes()), static_cast<size_t>(t.nbytes())};
}

std::string packed_model(DType scale_dtype) {
  const AwqGemmTensors t = encode_awq_gemm(example());
  const Tensor scales = t.scales.to(scale_dtype);
  const std::string m = kModule;
  return safetensors({{{m + ".qweight", DType::kI32, t.qweight.shape()}, bytes_of_tensor(t.qweight)},
                      {{m + ".qzeros", DType::kI32, t.qzeros.shape()}, bytes_of_tensor(t.qzeros)},
                      {{m + ".scales", scale_dtype, scales.shape()}, bytes_of_tensor(scales)},
                      {{"lm_head.weight", DType::kF16, {1, 2}}, bytes_of<uint16_t>({0, 0})},
                      {{"model.embed_tokens.weight", DType::kF16, {1, 2}}, bytes_of<uint16_t>({0, 0})},
                      {{"model.norm.weight", DType::kF16, {2}}, bytes_of<uint16_t>({0, 0})}});
}

std::string config_with(const std::string& quantization) {
  return R"({"model_type":"llama")" +
         (quantization.empty() ? "" : ",\"quantization_config\":" + quantization) + "}";
}

TEST(AwqRead, EverySpellingOfTheSettings) {
  const struct {
    const char* what;
    std::string config;
    std::string file, contents;  // beside config.json
  } cases[] = {
      {"AutoAWQ's file",
       config_with(R"({"quant_method":"awq","bits":4,"group_size":8,"zero_point":true,"version":"gemm",)"
                   R"("modules_to_not_convert":null})"),
       "", ""},
      {"upper case",
       config_with(R"({"quant_method":"AWQ","bits":4,"group_size":8,"zero_point":true,"version":"GEMM"})"),
       "", ""},
      {"short names", config_with(R"({"quant_method":"awq","w_bit":4,"q_group_size":8,"zero_point":true})"),
       "", ""},
      {"inside text_config",
       R"({"text_config":{"quantization_config":{"quant_method":"awq","bits":4,"group_size":8}}})", "", ""},
      {"quant_config.json", config_with(""), "quant_config.json",
       R"({"zero_point":true,"q_group_size":8,"w_bit":4,"version":"GEMM"})"},
      {"quantize_config.json", config_with("null"), "quantize_config.json",
       R"({"quant_method":"awq","bits":4,"group_size":8,"zero_point":true})"},
  };
  std::vector<float> expected(8 * 16);
  dequantize(example(), expected.data());
  for (const auto& c : cases)
    for (const DType scale_dtype : {DType::kF16, DType::kBF16}) {
      TempDir dir;
      dir.write("config.json", c.config);
      if (!c.file.empty()) dir.write(c.file, c.contents);
      dir.write("model.safetensors", packed_model(scale_dtype));
      const auto checkpoint = Checkpoint::open(dir.path());
      ASSERT_TRUE(checkpoint->awq()) << c.what;
      EXPECT_EQ(checkpoint->awq()->bits, 4);
      EXPECT_EQ(checkpoint->awq()->group_size, 8);
      EXPECT_THAT(checkpoint->awq()->modules_to_not_convert, ElementsAre("lm_head")) << c.what;
      EXPECT_TRUE(checkpoint->is_quantized(kModule));
      EXPECT_FALSE(checkpoint->is_quantized("lm_head"));
      std::vector<float> got(8 * 16);
      dequantize(checkpoint->load_quant(kModule), got.data());
      EXPECT_EQ(got, expected) << c.what;
      EXPECT_EQ(checkpoint->format().name, "AWQ w4 g8");
      EXPECT_EQ(checkpoint->format().bits_per_weight, 4 + 20.0 / 8);  // scale and zero point per 8 weights
      EXPECT_TRUE(checkpoint->format().quantized);
    }
}

TEST(AwqRead, ListOfExceptionsIsKept) {
  TempDir dir;
  dir.write(
      "config.json",
      config_with(R"({"quant_method":"awq","bits":4,"group_size":8,"modules_to_not_convert":["visual"]})"));
  dir.write("model.safetensors", packed_model(DType::kF16));
  EXPECT_THAT(Checkpoint::open(dir.path())->awq()->modules_to_not_convert, ElementsAre("visual"));
}

TEST(AwqRead, RefusesOtherMethodsAndLayouts) {
  const struct {
    const char *what, *settings, *code, *expected;
  } cases[] = {
      {"hqq", R"({"quant_method":"hqq","bits":4,"group_size":8})", "unsupported", "'hqq'"},
      {"gptq's marlin", R"({"quant_method":"gptq","bits":4,"checkpoint_format":"marlin"})", "unsupported", "'marlin'"},
      {"gptq without a name", R"({"bits":9,"group_size":8,"desc_act":false})", "unsupported", "got 9"},
      {"bitsandbytes without a width", R"({"quant_method":"bitsandbytes"})", "unsupported", "load_in_4bit"},
      {"fp4", R"({"quant_method":"bitsandbytes","load_in_4bit":true})", "unsupported", "'fp4'"},
      {"nf4 without its tensors", R"({"quant_method":"bitsandbytes","load_in_4bit":true,"bnb_4bit_quant_type":"nf4"})", "bad_file",
       "bitsandbytes__nf4"},
      {"small floats", R"({"quant_method":"compressed-tensors","format":"nvfp4-pack-quantized"})", "unsupported", "'nvfp4"},
      {"no groups", R"({"quant_method":"compressed-tensors","format":"pack-quantized"})", "bad_file", "config_groups"},
      {"columns out of order",
       R"({"quant_method":"compressed-tensors","format":"pack-quantized","config_groups":{"g":{"weights":{"type":"int","actorder":"group"}}}})",
       "unsupported", "actorder"},
      {"eight bits", R"({"quant_method":"awq","bits":8,"group_size":8})", "unsupported", "got 8"},
      {"gemv", R"({"quant_method":"awq","bits":4,"group_size":8,"version":"gemv"})", "unsupported", "'gemv'"},
      {"text for bits", R"({"quant_method":"awq","bits":"4"})", "bad_file", "bits"},
      {"group of 0", R"({"quant_method":"awq","bits":4,"group_size":0})", "bad_file", "group_size"},
      {"names not a list", R"({"quant_method":"awq","modules_to_not_convert":"lm_head"})", "bad_file",
       "list"},
      {"not an object", R"([4])", "bad_file", "object"},
  };
  for (const auto& c : cases) {
    TempDir dir;
    dir.write("config.json", config_with(c.settings));
    dir.write("model.safetensors", packed_model(DType::kF16));
    EXPECT_THAT(error_of([&] { Checkpoint::open(dir.path()); }),
                AllOf(HasSubstr(c.code), HasSubstr("config.json"), HasSubstr(c.expected)))
        << c.what;
  }
}

TEST(AwqRead, SettingsAndTensorsMustAgree) {
  TempDir dir;
  dir.write("config.json", config_with(""));
  dir.write("model.safetensors", packed_model(DType::kF16));
  EXPECT_THAT(error_of([&] { Checkpoint::open(dir.path()); }),
              AllOf(HasSubstr("unsupported"), HasSubstr("qweight")));
  dir.write("config.json", config_with(R"({"quant_method":"awq","bits":4,"group_size":8})"));
  dir.write("model.safetensors", safetensors({f32_tensor("a", {1}, {1})}));
  EXPECT_THAT(error_of([&] { Checkpoint::open(dir.path()); }),
              AllOf(HasSubstr("bad_file"), HasSubstr("qweight")));
  dir.write("config.json", config_with(""));
  dir.write("quant_config.json", R"({"w_bit":4})");
  EXPECT_FALSE(Checkpoint::open(dir.path())->awq()) << "a stray file beside dense weights means nothing";
}

TEST(AwqRead, MissingPartIsNamed) {
  TempDir dir;
  dir.write("config.json", config_with(R"({"quant_method":"awq","bits":4,"group_size":8})"));
  dir.write("model.safetensors", safetensors({{{"m.qweight", DType::kI32, {1}}, bytes_of<int32_t>({1})}}));
  const auto c = Checkpoint::open(dir.path());
  EXPECT_THAT(error_of([&] { c->load_quant("m"); }), AllOf(HasSubstr("not_found"), HasSubstr("m.qzeros")));
}

}  // namespace
}  // namespace awq
