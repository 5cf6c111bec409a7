// A checkpoint as people publish it, seen through Hugging Face names: a directory with config.json and
// safetensors (single or sharded), or a GGUF file. Weights are asked for by name, one at a time; nothing here
// knows layers or forward passes.
#pragma once
#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/tensor.h"
#include "weights/packing.h"
#include "weights/quant_weight.h"

namespace awq {

class GgufFile;

// Where a tensor lies, for listings and error messages.
struct StoredTensor {
  std::string name;         // Hugging Face name, e.g. "model.layers.0.mlp.up_proj.weight"
  std::string stored_name;  // the name in the file ("blk.0.ffn_up.weight" in GGUF), else equal to name
  std::string dtype;        // as stored: "BF16", "Q4_1", ...
  Shape shape;              // Hugging Face order
  std::filesystem::path file;
  int64_t offset = 0;  // bytes from the start of the file
  int64_t bytes = 0;
};

// quantization_config of an AWQ checkpoint (docs/formats.md, section j).
struct AwqConfig {
  int bits = 4;
  int group_size = 128;
  bool zero_point = true;
  std::string version = "gemm";
  std::vector<std::string> modules_to_not_convert;
};

// How the quantized linears of a checkpoint are stored, whoever wrote them (docs/formats.md, section j).
struct PackedConfig {
  StoredForm form = StoredForm::kAwqGemm;
  FormHints hints;
  std::vector<std::string> left_dense;  // modules or patterns, as the configuration names them
};

// What a source that is itself quantized is called: {"Q4_1", 5.0}.
struct SourceFormat {
  std::string name;             // "BF16", "F16", "Q4_1", "AWQ w4 g128", "mixed Q4_1/Q6_K"
  double bits_per_weight = 16;  // over all linear weights
  bool quantized = false;
};

class Checkpoint {
 public:
  // path: a directory with config.json, or a .gguf file. Reads headers only. Errors name the file: kNotFound,
  // kBadFile, kUnsupported (a pickle .bin: names the safe way; an unknown GGUF tensor type; a foreign
  // quant_method).
  static std::shared_ptr<const Checkpoint> open(const std::filesystem::path& path);
  virtual ~Checkpoint() = default;

  virtual const std::filesystem::path& path() const = 0;
  virtual bool is_gguf() const = 0;
  virtual const GgufFile* gguf() const { return nullptr; }  // the file behind a GGUF checkpoint
  // config.json; for GGUF the equivalent made from metadata (docs/formats.md, section h).
  virtual const nlohmann::ordered_json& config() const = 0;
  virtual const std::vector<StoredTensor>& tensors() const = 0;  // in file order
  virtual const StoredTensor* find(std::string_view name) const = 0;
  bool has(std::string_view name) const { return find(name) != nullptr; }
  // The dense tensor `name`: a view of the mapping for F32/F16/BF16/F64/fp8/integers, an F32 copy for GGUF's
  // block types (Hugging Face row order: q and k of `llama` are un-permuted) and for FP8 and MXFP4 weights with scales
  // beside them (docs/formats.md), which are multiplied in. Throws kNotFound, or kBadFile
  // on NaN or infinity in a float weight, naming file, tensor and element offset, when check_finite is set.
  virtual Tensor load(std::string_view name, bool check_finite = true) const = 0;
  // load() as F32 with the shape demanded: kBadFile "expected shape [..], got [..]".
  Tensor load_f32(std::string_view name, const Shape& shape) const;
  Tensor load_shaped(std::string_view name, const Shape& shape) const;
  // The same demands without reading the data: kNotFound, or kBadFile naming file, tensor and offset.
  void require_shape(std::string_view name, const Shape& shape) const;

  virtual const std::optional<AwqConfig>& awq() const = 0;
  // Of every quantized checkpoint whose linears load_quant can read, AWQ's too; empty for dense ones and for GGUF.
  virtual const std::optional<PackedConfig>& packing() const = 0;
  // Weights a stored tensor holds: its elements, those its words pack, none for scales and the like beside packed ones.
  int64_t weights_in(const StoredTensor& tensor) const;
  // Whether the linear `module` ("model.layers.0.mlp.up_proj") is stored quantized.
  bool is_quantized(std::string_view module) const;
  QuantWeight load_quant(std::string_view module) const;

  virtual SourceFormat format() const = 0;
  // Fingerprint of the weights and configuration: SHA-256 over the names, shapes, dtypes, sizes and contents;
  // used by manifests and resume. Reads every byte.
  virtual std::string fingerprint() const = 0;

  // Lets go of resident pages of the weight files: what views still read comes back from the file.
  virtual void let_go() const = 0;

  // Files beside the weights that an output directory should carry, and their contents: for a directory the
  // tokenizer, chat template, generation_config, ... verbatim; for GGUF the ones made from metadata.
  struct SideFile {
    std::string name;      // file name in the output directory
    std::string contents;  // bytes
  };
  virtual std::vector<SideFile> side_files() const = 0;
  virtual std::string license() const = 0;  // from the README front matter or GGUF metadata, "" if unknown
};

}  // namespace awq
