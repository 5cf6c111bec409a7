// FP8 and MXFP4 weights against their definitions, value by value.
#include "checkpoint/scaled_floats.h"

#include <gmock/gmock.h>

#include <cmath>

#include "checkpoint/checkpoint.h"
#include "unit/formats/files.h"

namespace awq {
namespace {

using namespace test;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr const char* kModule = "model.layers.0.mlp.up_proj";

NamedBytes tensor(const std::string& name, DType dtype, Shape shape, std::string bytes) {
  return {{name, dtype, std::move(shape)}, std::move(bytes)};
}

std::string config(const char* quantization) {
  return std::string(R"({"model_type": "llama", "quantization_config": )") + quantization + "}";
}

constexpr const char* kBlocks = R"({"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [2, 4]})";
constexpr const char* kPlain = R"({"quant_method": "fp8", "activation_scheme": "static"})";
constexpr const char* kCompressed =
    R"({"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": {}})";

// E4M3 without infinities: sign, 4 exponent bits (bias 7), 3 mantissa bits.
float e4m3(int bits) {
  const int exponent = bits >> 3 & 15, mantissa = bits & 7;
  const float magnitude = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -9)
                                        : std::ldexp(8 + static_cast<float>(mantissa), exponent - 10);
  return bits & 128 ? -magnitude : magnitude;
}

std::string all_but_nan(int64_t n) {
  std::string bytes;
  for (int64_t i = 0; i < n; ++i) bytes += static_cast<char>(i * 11 % 127 + (i % 2) * 128);
  return bytes;
}

struct Case {
  const char* quantization;
  const char* suffix;
  Shape scale_shape;
  int64_t block_rows, block_columns;
  const char* name;
};

// 3 rows of 10: blocks of 2x4 are cut off at both ends.
TEST(ScaledFloats, Fp8IsEveryCodeTimesItsScale) {
  const Case cases[] = {{kBlocks, "_scale_inv", {2, 3}, 2, 4, "FP8 2x4"},  {kPlain, "_scale", {}, 3, 10, "FP8"},
                        {kPlain, "_scale", {1}, 3, 10, "FP8"},             {kCompressed, "_scale", {3, 1}, 1, 10, "FP8"},
                        {kCompressed, "_scale", {3}, 1, 10, "FP8"},        {"null", "_scale_inv", {1, 1}, 3, 10, "F8_E4M3"}};
  for (const Case& c : cases) {
    SCOPED_TRACE(std::string(c.name) + shape_text(c.scale_shape));
    std::vector<float> scales;
    for (int64_t i = 0; i < numel(c.scale_shape); ++i) scales.push_back(0.5f + 0.37f * static_cast<float>(i));
    TempDir dir;
    dir.write("config.json", config(c.quantization));
    const std::string codes = all_but_nan(30), weight = std::string(kModule) + ".weight";
    dir.write("model.safetensors", safetensors({f32_tensor(weight + c.suffix, scales, c.scale_shape),
                                                tensor(weight, DType::kF8E4M3, {3, 10}, codes)}));
    const auto checkpoint = Checkpoint::open(dir.path());
    EXPECT_FALSE(checkpoint->awq());
    EXPECT_TRUE(checkpoint->format().quantized);
    EXPECT_EQ(checkpoint->format().name, c.name);
    EXPECT_EQ(checkpoint->format().bits_per_weight, 8 + 32.0 * static_cast<double>(scales.size()) / 30);
    const Tensor got = checkpoint->load_f32(weight, {3, 10});
    const int64_t across = (10 + c.block_columns - 1) / c.block_columns;
    for (int64_t r = 0; r < 3; ++r)
      for (int64_t k = 0; k < 10; ++k)
        EXPECT_EQ(got.f32()[r * 10 + k], e4m3(static_cast<uint8_t>(codes[static_cast<size_t>(r * 10 + k)])) *
                                             scales[static_cast<size_t>(r / c.block_rows * across + k / c.block_columns)])
            << r << " " << k;
  }
}

TEST(ScaledFloats, WeightsLeftDenseStayViews) {
  TempDir dir;
  dir.write("config.json", config(kBlocks));
  dir.write("model.safetensors", safetensors({f32_tensor("lm_head.weight", {1, 2}, {1, 2})}));
  const auto checkpoint = Checkpoint::open(dir.path());
  EXPECT_EQ(checkpoint->load("lm_head.weight").bytes(), checkpoint->load("lm_head.weight").bytes());
  EXPECT_FALSE(checkpoint->format().quantized);
}

// Byte l holds weight 2l low, 2l+1 high; 1 sign, 2 exponent, 1 mantissa bit.
TEST(ScaledFloats, Mxfp4IsEveryCodeTimesAPowerOfTwo) {
  TempDir dir;
  dir.write("config.json", config(R"({"quant_method": "mxfp4"})"));
  const std::string weight = std::string(kModule) + ".weight";
  std::string blocks;
  for (int i = 0; i < 2 * 2 * 16; ++i) blocks += static_cast<char>(i * 29);
  const std::string exponents("\x7f\x80\x00\xfa", 4);
  dir.write("model.safetensors", safetensors({tensor(weight + "_blocks", DType::kU8, {2, 2, 16}, blocks),
                                              tensor(weight + "_scales", DType::kU8, {2, 2}, exponents)}));
  const auto checkpoint = Checkpoint::open(dir.path());
  EXPECT_EQ(checkpoint->find(weight)->dtype, "MXFP4");
  EXPECT_EQ(checkpoint->find(weight)->stored_name, weight + "_blocks");
  EXPECT_EQ(checkpoint->format().name, "MXFP4");
  EXPECT_EQ(checkpoint->format().bits_per_weight, 4.25);
  constexpr float kMagnitudes[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  const Tensor got = checkpoint->load_f32(weight, {2, 64});
  for (int64_t i = 0; i < 128; ++i) {
    const int code = static_cast<uint8_t>(blocks[static_cast<size_t>(i / 2)]) >> (4 * (i % 2)) & 15;
    const float magnitude = std::ldexp(kMagnitudes[code & 7], static_cast<uint8_t>(exponents[static_cast<size_t>(i / 32)]) - 127);
    EXPECT_EQ(got.f32()[i], code & 8 ? -magnitude : magnitude) << i;
  }
}

TEST(ScaledFloats, WhatDoesNotFitIsNamed) {
  const std::string weight = std::string(kModule) + ".weight";
  const auto loading = [&](const char* quantization, const std::vector<NamedBytes>& tensors) {
    TempDir dir;
    dir.write("config.json", config(quantization));
    dir.write("model.safetensors", safetensors(tensors));
    return error_of([&] { Checkpoint::open(dir.path())->load(weight); });
  };
  const NamedBytes fp8 = tensor(weight, DType::kF8E4M3, {2, 4}, std::string(8, '\x38'));
  EXPECT_THAT(loading(kBlocks, {f32_tensor(weight + "_scale_inv", {1, 1, 1, 1}, {2, 2}), fp8}),
              AllOf(HasSubstr("bad_file"), HasSubstr(weight), HasSubstr("at offset"), HasSubstr("scales of shape [2, 2]")));
  EXPECT_THAT(loading(kBlocks, {f32_tensor(weight + "_scale_inv", {INFINITY}, {1, 1}), fp8}), HasSubstr("got inf at element 0"));
  EXPECT_THAT(loading(kBlocks, {f32_tensor(weight + "_scale_inv", {1}, {1, 1}),
                                tensor(weight, DType::kF8E4M3, {2, 4}, std::string(8, '\x7f'))}),
              HasSubstr("got nan at element 0"));
  EXPECT_THAT(loading(R"({"quant_method": "fp8", "weight_block_size": [0, 128]})", {fp8}),
              AllOf(HasSubstr("bad_file"), HasSubstr("weight_block_size"), HasSubstr("[0,128]")));
  const auto mxfp4 = [&](Shape blocks, Shape scales, char exponent) {
    const auto bytes = static_cast<size_t>(numel(blocks)), count = static_cast<size_t>(numel(scales));
    return loading(R"({"quant_method": "mxfp4"})",
                   {tensor(weight + "_blocks", DType::kU8, std::move(blocks), std::string(bytes, '\x11')),
                    tensor(weight + "_scales", DType::kU8, std::move(scales), std::string(count, exponent))});
  };
  EXPECT_EQ(mxfp4({1, 1, 16}, {1, 1}, '\x7f'), "");
  EXPECT_THAT(mxfp4({1, 1, 16}, {1, 1}, '\xff'), HasSubstr("got nan at element 0"));
  EXPECT_THAT(mxfp4({1, 1, 8}, {1, 1}, '\x7f'), AllOf(HasSubstr("bad_file"), HasSubstr("got [1, 1, 8] and [1, 1]")));
  EXPECT_THAT(mxfp4({1, 2, 16}, {1, 1}, '\x7f'), HasSubstr("bad_file"));
  EXPECT_THAT(mxfp4({16}, {}, '\x7f'), HasSubstr("bad_file"));
}

}  // namespace
}  // namespace awq
