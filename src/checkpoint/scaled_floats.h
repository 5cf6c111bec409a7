// Safetensors whose linears are small floats with scales beside them, as published: dequantized when they are loaded.
//
//   FP8     X.weight F8_E4M3 [out, in] with one of
//             X.weight_scale_inv  [ceil(out/128), ceil(in/128)]   DeepSeek-V3, Qwen3 (the name notwithstanding, a multiplier)
//             X.weight_scale      one number, [out] or [out, 1]   per tensor or per output
//   MXFP4   X_blocks U8 [.., groups, 16] and X_scales U8 [.., groups] stand for X [.., 32 * groups] (gpt-oss): byte l holds
//           weight 2l in its low and 2l+1 in its high four bits, E2M1; scales are powers of two, E8M0
//           (OCP Microscaling Formats 1.0)
#pragma once
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "tensor/tensor.h"

namespace awq {

struct ScaledFloats {
  std::string name;                               // "FP8 128x128", "FP8", "MXFP4"
  int64_t block_rows = 128, block_columns = 128;  // of weight_scale_inv
};

// From quantization_config; empty for other methods and for none. kBadFile for an impossible block size.
std::optional<ScaledFloats> read_scaled_floats(const nlohmann::ordered_json& config, const std::string& where);

// weight [out, in] times its scales, F32. kBadFile starting with `where` when the scales have no fitting shape.
Tensor dequantize_fp8(const Tensor& weight, const Tensor& scale, const ScaledFloats& format, const std::string& where);

// The shape blocks [.., groups, 16] and scales [.., groups] stand for; kBadFile when they do not fit together.
Shape mxfp4_shape(const Shape& blocks, const Shape& scales, const std::string& where);
Tensor dequantize_mxfp4(const Tensor& blocks, const Tensor& scales, const std::string& where);

}  // namespace awq
