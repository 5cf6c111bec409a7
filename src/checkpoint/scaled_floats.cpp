#include "checkpoint/scaled_floats.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/checked.h"
#include "base/error.h"
#include "base/thread_pool.h"

namespace awq {
namespace {

using Json = nlohmann::ordered_json;

constexpr float kFp4[16] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};
constexpr int64_t kGroup = 32;  // weights per MXFP4 scale

std::string text_of(const Json& object, const char* key) {
  const auto it = object.find(key);
  return it != object.end() && it->is_string() ? it->get<std::string>() : "";
}

ScaledFloats fp8_settings(const Json& settings, const std::string& where) {
  ScaledFloats format{"FP8"};
  const auto block = settings.find("weight_block_size");
  if (block == settings.end() || block->is_null()) return format;
  const auto positive = [](const Json& n) { return n.is_number_integer() && n > 0 && n <= 1 << 20; };
  if (!block->is_array() || block->size() != 2 || !positive((*block)[0]) || !positive((*block)[1]))
    fail(Code::kBadFile, "{}: weight_block_size: expected two positive numbers, got {}", where, block->dump());
  format.block_rows = (*block)[0].get<int64_t>();
  format.block_columns = (*block)[1].get<int64_t>();
  format.name = fmt::format("FP8 {}x{}", format.block_rows, format.block_columns);
  return format;
}

int64_t blocks_of(int64_t n, int64_t block) { return (n + block - 1) / block; }

}  // namespace

std::optional<ScaledFloats> read_scaled_floats(const Json& config, const std::string& where) {
  const auto settings = config.find("quantization_config");
  if (settings == config.end() || !settings->is_object()) return std::nullopt;
  const std::string method = text_of(*settings, "quant_method");
  const std::string here = where + ": quantization_config";
  if (method == "fp8") return fp8_settings(*settings, here);
  if (method == "mxfp4") return ScaledFloats{"MXFP4"};
  if (method == "compressed-tensors" && text_of(*settings, "format") == "float-quantized") return ScaledFloats{"FP8"};
  return std::nullopt;
}

Tensor dequantize_fp8(const Tensor& weight, const Tensor& scale, const ScaledFloats& format, const std::string& where) {
  if (weight.rank() != 2) fail(Code::kBadFile, "{}: expected a matrix of 8-bit floats, got shape {}", where, shape_text(weight.shape()));
  const int64_t rows = weight.dim(0), columns = weight.dim(1);
  int64_t block_rows = format.block_rows, block_columns = format.block_columns;
  if (scale.numel() == 1) {
    block_rows = std::max<int64_t>(rows, 1);
    block_columns = std::max<int64_t>(columns, 1);
  } else if (scale.shape() == Shape{rows} || scale.shape() == Shape{rows, 1}) {
    block_rows = 1;
    block_columns = std::max<int64_t>(columns, 1);
  } else if (scale.shape() != Shape{blocks_of(rows, block_rows), blocks_of(columns, block_columns)}) {
    fail(Code::kBadFile, "{}: expected one scale, one per row or one per {}x{} block of shape {}, got scales of shape {}", where,
         block_rows, block_columns, shape_text(weight.shape()), shape_text(scale.shape()));
  }
  const Tensor scales = scale.to_f32();
  const int64_t across = blocks_of(columns, block_columns);
  Tensor out = weight.to_f32();
  float* w = out.f32();
  parallel_for(rows, [&](int64_t r) {
    const float* row_scales = scales.f32() + r / block_rows * across;
    for (int64_t k = 0; k < columns; ++k) w[r * columns + k] *= row_scales[k / block_columns];
  });
  return out;
}

Shape mxfp4_shape(const Shape& blocks, const Shape& scales, const std::string& where) {
  Shape groups = blocks;
  if (!groups.empty()) groups.pop_back();
  if (groups.size() < 2 || blocks.back() != kGroup / 2 || scales != groups)
    fail(Code::kBadFile, "{}: expected blocks [.., groups, 16] and scales [.., groups], got {} and {}", where, shape_text(blocks),
         shape_text(scales));
  Shape shape(groups.begin(), groups.end() - 1);
  shape.push_back(checked_mul(groups.back(), kGroup, where));
  return shape;
}

Tensor dequantize_mxfp4(const Tensor& blocks, const Tensor& scales, const std::string& where) {
  Tensor out(DType::kF32, mxfp4_shape(blocks.shape(), scales.shape(), where));
  if (blocks.dtype() != DType::kU8 || scales.dtype() != DType::kU8)
    fail(Code::kBadFile, "{}: expected U8 blocks and scales, got {} and {}", where, dtype_name(blocks.dtype()),
         dtype_name(scales.dtype()));
  const auto *codes = blocks.data<uint8_t>(), *exponents = scales.data<uint8_t>();
  float* w = out.f32();
  constexpr int64_t kTile = 1024;  // groups
  parallel_for(blocks_of(scales.numel(), kTile), [&](int64_t tile) {
    for (int64_t g = tile * kTile; g < std::min((tile + 1) * kTile, scales.numel()); ++g) {
      const float scale = exponents[g] == 255 ? NAN : std::ldexp(1.0f, exponents[g] - 127);
      for (int64_t l = 0; l < kGroup / 2; ++l) {
        const uint8_t byte = codes[g * kGroup / 2 + l];
        w[g * kGroup + 2 * l] = kFp4[byte & 15] * scale;
        w[g * kGroup + 2 * l + 1] = kFp4[byte >> 4] * scale;
      }
    }
  });
  return out;
}

}  // namespace awq
