// config.json of an output, made from the source's.
#pragma once
#include <nlohmann/json_fwd.hpp>

#include "checkpoint/checkpoint.h"
#include "tensor/tensor.h"

namespace awq {

// The source's configuration, all keys and their order kept, with `quantization_config` as AWQ loaders read
// it (docs/formats.md, section j) and the dtype of the remaining tensors (F16 or BF16). Keys by which other
// tools mark a quantized checkpoint are removed.
nlohmann::ordered_json quantized_config(const nlohmann::ordered_json& source, const AwqConfig& awq,
                                        DType dtype);

// The same for any stored form.
struct OutputQuantization {
  StoredForm form = StoredForm::kAwqGemm;
  Scheme scheme;
  // Several schemes, each with the full names of its linears: compressed-tensors only.
  struct Group {
    Scheme scheme;
    std::vector<std::string> modules;
  };
  std::vector<Group> groups;  // empty: all have `scheme`
  std::vector<std::string> left_dense;  // full names of linears that stay plain
};
nlohmann::ordered_json packed_config(const nlohmann::ordered_json& source, const OutputQuantization& quantization, DType dtype);

// The same for an output of plain tensors (F32, F16 or BF16): no quantization_config.
nlohmann::ordered_json dense_config(const nlohmann::ordered_json& source, DType dtype);

}  // namespace awq
