// What the writing side wrote, seen through the reading side.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/half.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/output_config.h"
#include "unit/checkpoint/write_fixture.h"

namespace awq {
namespace {

using testing::small_manifest;
using testing::TempDir;

constexpr const char* kModule = "model.layers.0.mlp.up_proj";
constexpr int64_t kRows = 32, kCols = 64;

QuantWeight weight() {
  QuantWeight w;
  w.scheme = {.bits = 4, .group = 32};
  w.rows = kRows;
  w.cols = kCols;
  for (int64_t i = 0; i < kRows * kCols; ++i) w.codes.push_back(static_cast<uint8_t>(i * 7 % 16));
  for (int64_t i = 0; i < kRows * 2; ++i) {
    w.scales.push_back(round_to_fp16(0.01f * static_cast<float>(i + 1)));
    w.zeros.push_back(static_cast<uint8_t>(i % 16));
  }
  return w;
}

Tensor embedding() {
  std::vector<float> values(kRows * 4);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i) / 8;
  return Tensor::from(values, {kRows, 4}).to(DType::kF16);
}

void expect_readable(const std::filesystem::path& dir) {
  const auto checkpoint = Checkpoint::open(dir);
  ASSERT_TRUE(checkpoint->awq().has_value());
  EXPECT_EQ(checkpoint->awq()->group_size, 32);
  EXPECT_EQ(checkpoint->awq()->modules_to_not_convert, std::vector<std::string>{"lm_head"});
  ASSERT_TRUE(checkpoint->is_quantized(kModule));
  const QuantWeight read = checkpoint->load_quant(kModule), written = weight();
  EXPECT_EQ(read.scheme, written.scheme);
  EXPECT_EQ(read.codes, written.codes);
  EXPECT_EQ(read.zeros, written.zeros);
  EXPECT_EQ(read.scales, written.scales);
  const Tensor stored = checkpoint->load("model.embed_tokens.weight"), expected = embedding();
  ASSERT_EQ(stored.dtype(), DType::kF16);
  EXPECT_EQ(std::memcmp(stored.bytes(), expected.bytes(), static_cast<size_t>(expected.nbytes())), 0);
}

TEST(RoundTrip, AnOutputOpensBeforeAndAfterItIsPublished) {
  const auto source = nlohmann::ordered_json::parse(
      R"({"architectures":["LlamaForCausalLM"],"model_type":"llama","torch_dtype":"bfloat16"})");
  const AwqConfig awq{4, 32, true, "gemm", {"lm_head"}};
  const AwqGemmTensors packed = encode_awq_gemm(weight());
  const std::string module = kModule;
  OutputPlan plan;
  plan.tensors = {{"model.embed_tokens.weight", DType::kF16, {kRows, 4}},
                  {module + ".qweight", DType::kI32, packed.qweight.shape()},
                  {module + ".qzeros", DType::kI32, packed.qzeros.shape()},
                  {module + ".scales", DType::kF16, packed.scales.shape()}};
  for (int64_t shard_bytes : {int64_t{1000}, kDefaultShardBytes}) {
    TempDir tmp;
    {
      CheckpointWriter writer(tmp / "out", plan, {.shard_bytes = shard_bytes});
      writer.add_file("config.json", quantized_config(source, awq, DType::kF16).dump(2) + "\n");
      writer.add(module + ".scales", packed.scales);
      writer.add(module + ".qzeros", packed.qzeros);
      writer.add(module + ".qweight", packed.qweight);
      writer.add("model.embed_tokens.weight", embedding());
      expect_readable(writer.working_dir());
      const auto opened = Checkpoint::open(writer.working_dir());
      writer.finish(small_manifest());
      EXPECT_EQ(opened->load_quant(kModule).codes, weight().codes);  // its mappings outlive the rename
    }
    expect_readable(tmp / "out");
    EXPECT_TRUE(verify_files(tmp / "out").empty());
  }
}

}  // namespace
}  // namespace awq
