// A Hugging Face directory: config.json and safetensors, single or sharded.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <unordered_map>

#include "base/system.h"
#include "checkpoint/awq_config.h"
#include "checkpoint/json_file.h"
#include "checkpoint/packed_config.h"
#include "checkpoint/scaled_floats.h"
#include "checkpoint/shard_index.h"
#include "checkpoint/side_files.h"
#include "checkpoint/source_format.h"
#include "checkpoint/sources.h"
#include "base/printable.h"
#include "formats/safetensors.h"

namespace awq {
namespace {

namespace fs = std::filesystem;
[[noreturn]] void fail_without_safetensors(const fs::path& dir) {
  std::set<std::string> pickles, ggufs;
  for (const auto& entry : fs::directory_iterator(dir)) {
    const std::string extension = entry.path().extension().string(), name = entry.path().filename().string();
    if (extension == ".bin" || extension == ".pt" || extension == ".pth") pickles.insert(name);
    if (extension == ".gguf") ggufs.insert(name);
  }
  if (!pickles.empty())
    fail(Code::kUnsupported,
         "{}: a pickle can run code when it is read, so it is not read here; convert it where you trust it: "
         "python -c "
         "\"from transformers import AutoModelForCausalLM as M; "
         "M.from_pretrained('{}').save_pretrained('{}-safetensors')\"",
         (dir / *pickles.begin()).string(), dir.string(), dir.string());
  if (!ggufs.empty())
    fail(Code::kNotFound, "{}: expected model.safetensors; to read the GGUF name it: {}", dir.string(),
         (dir / *ggufs.begin()).string());
  fail(Code::kNotFound, "{}: expected model.safetensors or model.safetensors.index.json, found neither",
       dir.string());
}

constexpr const char* kPackedFloats = "MXFP4";

class HfCheckpoint : public ListedCheckpoint {
 public:
  explicit HfCheckpoint(const fs::path& dir) : dir_(dir) {
    config_ = read_json_object(dir_ / "config.json");
    open_files();
    scaled_ = read_scaled_floats(config_, (dir_ / "config.json").string());
    name_packed_floats();
    index_tensors();
    if (scaled_) return;
    read_quantization();
    if (!awq_) return;
    if (awq_->modules_to_not_convert.empty()) awq_->modules_to_not_convert = dense_modules();
    packing_ = PackedConfig{StoredForm::kAwqGemm, {awq_->bits, awq_->group_size}, awq_->modules_to_not_convert};
  }

  const fs::path& path() const override { return dir_; }
  bool is_gguf() const override { return false; }

  Tensor load(std::string_view name, bool check_finite) const override {
    const StoredTensor& t = stored(name);
    Tensor tensor = t.dtype == kPackedFloats ? load_mxfp4(t) : raw(t);
    if (tensor.dtype() == DType::kF8E4M3)
      if (const StoredTensor* scale = scale_of(t.name))
        tensor = dequantize_fp8(tensor, raw(*scale), scaled_.value_or(ScaledFloats{}), place(t));
    if (check_finite) require_finite(tensor, t);
    return tensor;
  }

  SourceFormat format() const override {
    SourceFormat format = describe_format(tensors_, packing_);
    if (scaled_ && format.quantized) format.name = scaled_->name;
    return format;
  }
  std::string fingerprint() const override {
    return fingerprint_tensors(
        *this, [&](const StoredTensor& t) -> const MappedFile& { return *file_of(t).file(); });
  }
  void let_go() const override {
    for (const auto& [path, file] : files_) file->file()->done_with(0, file->file()->bytes().size());
  }
  std::vector<SideFile> side_files() const override { return read_side_files(dir_); }
  std::string license() const override {
    for (const char* name : {"README.md", "README.source.md"}) {
      if (!fs::is_regular_file(dir_ / name)) continue;
      const std::string license = license_of_readme(read_text_file(dir_ / name));
      if (!license.empty()) return license;
    }
    return "";
  }

 private:
  void open_files() {
    const fs::path single = dir_ / "model.safetensors", index = dir_ / "model.safetensors.index.json";
    if (fs::exists(single))
      add_file(single, nullptr);
    else if (fs::exists(index))
      open_shards(index);
    else
      fail_without_safetensors(dir_);
  }

  // "X_blocks" beside "X_scales" is listed as X; the scales stay listed, since they are part of the file's
  // contents.
  void name_packed_floats() {
    constexpr std::string_view kBlocks = "_blocks", kScales = "_scales";
    std::unordered_map<std::string, const StoredTensor*> scales;
    for (const StoredTensor& t : tensors_)
      if (t.name.ends_with(kScales)) scales.emplace(t.name.substr(0, t.name.size() - kScales.size()), &t);
    for (StoredTensor& t : tensors_) {
      if (!t.name.ends_with(kBlocks)) continue;
      const std::string module = t.name.substr(0, t.name.size() - kBlocks.size());
      const auto beside = scales.find(module);
      if (beside == scales.end()) continue;
      t.shape = mxfp4_shape(t.shape, beside->second->shape, place(t));
      t.name = module;
      t.dtype = kPackedFloats;
    }
  }

  Tensor load_mxfp4(const StoredTensor& t) const {
    return dequantize_mxfp4(raw(t), raw(*find(t.name + "_scales")), place(t));
  }

  const StoredTensor* scale_of(const std::string& weight) const {
    for (const char* suffix : {"_scale_inv", "_scale"})
      if (const StoredTensor* scale = find(weight + suffix)) return scale;
    return nullptr;
  }

  static std::string place(const StoredTensor& t) {
    return fmt::format("{}: tensor '{}' at offset {}", t.file.string(), printable(t.stored_name), t.offset);
  }

  Tensor raw(const StoredTensor& t) const {
    const SafetensorsFile& file = file_of(t);
    return file.tensor(*file.find(t.stored_name));
  }

  void open_shards(const fs::path& index) {
    const WeightMap map = parse_shard_index(read_json_text(index), index.string()).weight_map;
    std::set<std::string> shards;
    for (const auto& [tensor, shard] : map) shards.insert(shard);
    for (const std::string& shard : shards) {
      if (!fs::exists(dir_ / shard))
        fail(Code::kNotFound, "{}: shard named by {} is missing", (dir_ / shard).string(),
             index.filename().string());
      add_file(dir_ / shard, &map);
    }
    for (const auto& [tensor, shard] : map)
      if (!files_.at((dir_ / shard).string())->find(tensor))
        fail(Code::kBadFile, "{}: expected tensor '{}' as {} says, found none", (dir_ / shard).string(),
             printable(tensor), index.filename().string());
  }

  // With a map, a tensor it places in another shard is skipped here.
  void add_file(const fs::path& path, const WeightMap* map) {
    auto file = SafetensorsFile::open(path);
    for (const SafetensorsEntry& e : file->entries()) {
      if (map)
        if (const auto it = map->find(e.name); it != map->end() && it->second != path.filename().string())
          continue;
      tensors_.push_back({e.name, e.name, e.dtype_name, e.shape, path, e.offset, e.bytes});
    }
    files_.emplace(path.string(), std::move(file));
  }

  void read_quantization() {
    const auto packed = std::find_if(tensors_.begin(), tensors_.end(),
                                     [](const StoredTensor& t) { return t.name.ends_with(".qweight"); });
    const bool has_packed = packed != tensors_.end();
    packing_ = read_packed_config(dir_, config_, has_packed);
    if (packing_) return require_marked();
    awq_ = read_awq_config(dir_, config_, has_packed);
    if (awq_ && !has_packed)
      fail(Code::kBadFile, "{}: quantization_config says awq, but no tensor is named *.qweight",
           (dir_ / "config.json").string());
    if (!awq_ && has_packed)
      fail(Code::kUnsupported, "{}: tensor '{}' is packed, but no quantization_config says how",
           packed->file.string(), printable(packed->name));
  }

  void require_marked() const {
    const std::string_view marker = form_marker(packing_->form);
    for (const StoredTensor& t : tensors_)
      if (t.name.ends_with(marker)) return;
    fail(Code::kBadFile, "{}: quantization_config says {}, but no tensor is named *{}", (dir_ / "config.json").string(),
         form_name(packing_->form), marker);
  }

  // What an AWQ checkpoint without a list of exceptions left dense: matrices other than the embedding.
  std::vector<std::string> dense_modules() const {
    std::vector<std::string> out;
    for (const StoredTensor& t : tensors_)
      if (t.name.ends_with(".weight") && t.shape.size() == 2 && t.name.find("embed") == std::string::npos)
        out.push_back(t.name.substr(0, t.name.size() - 7));
    std::sort(out.begin(), out.end());
    return out;
  }

  const SafetensorsFile& file_of(const StoredTensor& t) const { return *files_.at(t.file.string()); }

  fs::path dir_;
  std::unordered_map<std::string, std::shared_ptr<const SafetensorsFile>> files_;
  std::optional<ScaledFloats> scaled_;
};

}  // namespace

std::shared_ptr<const Checkpoint> open_hf_directory(const fs::path& dir) {
  return std::make_shared<HfCheckpoint>(dir);
}

}  // namespace awq
