// The forms in which a quantized linear lies in a checkpoint, as tensors named <module><suffix>: one table of
// what each holds, one encoder and one decoder per form (packing/*.cpp). Bit-exact layouts: docs/formats.md.
#pragma once
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "weights/quant_weight.h"

namespace awq {

enum class StoredForm : uint8_t {
  kAwqGemm,        // AutoAWQ "gemm" (section a)
  kGptq,           // GPTQ, zero points stored less one ("gptq"; section d)
  kGptqV2,         // GPTQ, zero points as they are ("gptq_v2")
  kPackQuantized,  // compressed-tensors "pack-quantized" (section e)
  kIntQuantized,   // compressed-tensors "int-quantized": 8 bits as they are (section e)
  kBnbNf4,         // bitsandbytes NF4 with double quantization (section f)
  kBnbInt8,        // bitsandbytes LLM.int8 (section f)
};

const char* form_name(
    StoredForm form);  // "gemm", "gptq", "gptq-v2", "pack-quantized", "int-quantized", "bnb-nf4", "bnb-int8"

// Empty, or why a matrix [rows, cols] of this scheme cannot be stored so: "3 bits, expected 4", "20 outputs
// are not a multiple of 8".
std::string form_refusal(StoredForm form, const Scheme& scheme, int64_t rows, int64_t cols);

// The tensors of one linear before any of them exists. `dense` (F16 or BF16) is the dtype of the checkpoint's
// other tensors.
struct StoredPart {
  std::string suffix;  // ".qweight"
  DType dtype = DType::kF32;
  Shape shape;
  int64_t bytes() const { return numel(shape) * dtype_size(dtype); }
};
std::vector<StoredPart> stored_parts(StoredForm form, const Scheme& scheme, int64_t rows, int64_t cols,
                                     DType dense);

// The same tensors filled, in the same order. kBadArgument when form_refusal is not empty. Nothing is
// rounded, except that bnb-nf4 rounds its scales once more (to 8 bits each): what is stored is what decoding
// gives.
struct EncodedPart {
  std::string suffix;
  Tensor tensor;
};
std::vector<EncodedPart> encode_weight(StoredForm form, const QuantWeight& w, DType dense);

// Where a decoder gets its tensors: by suffix; `load` throws kNotFound.
struct PartSource {
  std::function<bool(std::string_view suffix)> has;
  std::function<Tensor(std::string_view suffix)> load;
};
// What a checkpoint's configuration says about all its linears; shapes decide where they can.
struct FormHints {
  int bits = 4;
  int group = 128;
  float outlier_threshold = 6;  // of bnb-int8
};
// The suffix of the tensor whose presence says that a module is stored in this form.
std::string_view form_marker(StoredForm form);
// Throws kBadFile naming `name` and the part, expected and found; kUnsupported for what the form allows but a
// QuantWeight cannot say (GPTQ with columns out of order, blocks that straddle rows).
QuantWeight decode_weight(StoredForm form, const std::vector<EncodedPart>& parts, const FormHints& hints,
                          const std::string& name);
QuantWeight decode_weight(StoredForm form, const PartSource& parts, const FormHints& hints,
                          const std::string& name);

}  // namespace awq
