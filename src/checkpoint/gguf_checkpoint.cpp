// A GGUF file under Hugging Face names: names translated, dimensions in their order, rows of q and k put
// back.
#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/thread_pool.h"
#include "checkpoint/gguf_config.h"
#include "checkpoint/gguf_names.h"
#include "checkpoint/gguf_vocab.h"
#include "checkpoint/source_format.h"
#include "checkpoint/sources.h"
#include "formats/gguf.h"
#include "base/printable.h"

namespace awq {
namespace {

const GgufArch& arch_of(const GgufFile& gguf) {
  const auto name = gguf.text("general.architecture");
  if (!name) fail(Code::kBadFile, "{}: key 'general.architecture' is missing", gguf.path().string());
  const GgufArch* arch = find_gguf_arch(*name);
  if (!arch)
    fail(Code::kUnsupported, "{}: unknown architecture '{}'; known: {}", gguf.path().string(),
         printable(*name, 40), known_gguf_archs());
  return *arch;
}

// Undoes the converter's reordering within each head of `head_rows` rows: Hugging Face row j < d/2 is stored
// row 2j, row j >= d/2 is stored row 2(j - d/2) + 1. Rows are whole blocks, so their bytes move as they are.
void unpermute_rows(const std::byte* src, std::byte* dst, int64_t rows, int64_t head_rows,
                    int64_t row_bytes) {
  const int64_t half = head_rows / 2;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t j = row % head_rows;
    const int64_t stored = row - j + (j < half ? 2 * j : 2 * (j - half) + 1);
    std::memcpy(dst + row * row_bytes, src + stored * row_bytes, static_cast<size_t>(row_bytes));
  }
}

class GgufCheckpoint : public ListedCheckpoint {
 public:
  explicit GgufCheckpoint(const std::filesystem::path& path)
      : gguf_(GgufFile::open(path)), arch_(arch_of(*gguf_)) {
    config_ = config_from_gguf(*gguf_, arch_);
    for (const GgufTensor& t : gguf_->tensors())
      if (!is_rope_tensor(t.name)) add_tensor(t);
    index_tensors();
  }

  const std::filesystem::path& path() const override { return gguf_->path(); }
  bool is_gguf() const override { return true; }
  const GgufFile* gguf() const override { return gguf_.get(); }

  Tensor load(std::string_view name, bool check_finite) const override {
    const StoredTensor& t = stored(name);
    Tensor tensor = decode(*gguf_->find(t.stored_name), head_rows(t));
    if (check_finite) require_finite(tensor, t);
    return is_offset_gain(t) ? less_one(tensor) : tensor;
  }

  SourceFormat format() const override { return describe_format(tensors_, packing_); }
  std::string fingerprint() const override {
    return fingerprint_tensors(*this, [&](const StoredTensor& t) -> const MappedFile& {
      return *gguf_->files()[gguf_->find(t.stored_name)->file];
    });
  }

  void let_go() const override {
    for (const auto& file : gguf_->files()) file->done_with(0, file->bytes().size());
  }

  std::vector<SideFile> side_files() const override {
    std::vector<SideFile> out;
    out.push_back({"generation_config.json", generation_config_from_gguf(*gguf_).dump(2) + "\n"});
    if (const auto vocab = gguf_vocab(*gguf_)) {
      const int64_t context = config_.at("max_position_embeddings").get<int64_t>();
      const TokenizerFiles files = tokenizer_files_from_gguf(*vocab, context, path().string());
      out.push_back({"tokenizer.json", files.tokenizer_json});
      out.push_back({"tokenizer_config.json", files.tokenizer_config_json});
      if (!files.chat_template_jinja.empty())
        out.push_back({"chat_template.jinja", files.chat_template_jinja});
    }
    return out;
  }
  std::string license() const override { return printable(gguf_->text("general.license").value_or(""), 80); }

 private:
  void add_tensor(const GgufTensor& t) {
    const auto name = hf_tensor_name(arch_, t.name);
    if (!name)
      fail(Code::kUnsupported, "{}: tensor '{}' has no place in architecture '{}'", path().string(),
           printable(t.name), arch_.name);
    StoredTensor stored{*name,    t.name, t.type->name, t.shape, gguf_->files()[t.file]->path(),
                        t.offset, t.bytes};
    if (const int64_t head = head_rows(stored); head != 0 && (t.shape.empty() || t.shape[0] % head != 0))
      fail(Code::kBadFile, "{}: tensor '{}' at offset {}: expected rows in heads of {}, got shape {}",
           stored.file.string(), printable(t.name), t.offset, head, shape_text(t.shape));
    tensors_.push_back(std::move(stored));
  }

  // Norms whose gain 1 + w is what is stored, where Hugging Face has w.
  bool is_offset_gain(const StoredTensor& t) const { return arch_.gemma && t.shape.size() == 1 && t.name.ends_with("norm.weight"); }
  static Tensor less_one(const Tensor& stored) {
    Tensor w = stored.to_f32().clone();
    for (int64_t i = 0; i < w.numel(); ++i) w.f32()[i] -= 1;
    return w;
  }

  // Rows per head where they are stored reordered, else 0.
  int64_t head_rows(const StoredTensor& t) const {
    if (!arch_.permuted_qk) return 0;
    const bool q = t.name.find(".self_attn.q_proj.") != std::string::npos;
    if (!q && t.name.find(".self_attn.k_proj.") == std::string::npos) return 0;
    const int64_t heads = config_.at(q ? "num_attention_heads" : "num_key_value_heads").get<int64_t>();
    if (t.shape.empty() || t.shape[0] % heads != 0 || t.shape[0] / heads % 2 != 0)
      fail(Code::kBadFile, "{}: tensor '{}' at offset {}: expected rows for {} heads, got shape {}",
           t.file.string(), printable(t.stored_name), t.offset, heads, shape_text(t.shape));
    return t.shape[0] / heads;
  }

  Tensor decode(const GgufTensor& t, int64_t head_rows) const {
    const MappedFile& file = *gguf_->files()[t.file];
    const std::byte* src = gguf_->bytes(t).data();
    const bool aligned = t.type->plain() && reinterpret_cast<uintptr_t>(src) % t.type->block_bytes == 0;
    if (aligned && head_rows == 0) return {*t.type->dtype, t.shape, src, gguf_->files()[t.file]};
    Tensor ordered;
    if (head_rows != 0 && t.bytes > 0) {
      ordered = Tensor(DType::kU8, {t.bytes});
      unpermute_rows(src, ordered.mutable_bytes(), t.shape[0], head_rows, t.bytes / t.shape[0]);
      src = ordered.bytes();
    }
    Tensor out = t.type->plain() ? copy_plain(t, src) : dequantize(t, src);
    file.done_with(static_cast<size_t>(t.offset),
                   static_cast<size_t>(t.bytes));  // the copy is what is used from here
    return out;
  }

  static Tensor copy_plain(const GgufTensor& t, const std::byte* src) {
    Tensor out(*t.type->dtype, t.shape);
    std::memcpy(out.mutable_bytes(), src, static_cast<size_t>(t.bytes));
    return out;
  }

  Tensor dequantize(const GgufTensor& t, const std::byte* src) const {
    const std::string where = path().string() + ": tensor '" + printable(t.name) + "'";
    if (!t.type->dequantize)
      dequantize_block_type(*t.type, src, nullptr, 0, where);  // throws before memory is taken
    Tensor out(DType::kF32, t.shape);
    const int64_t n = out.numel(), tile = 256 * 256;  // weights; a multiple of every block
    parallel_for((n + tile - 1) / tile, [&](int64_t i) {
      const int64_t begin = i * tile;
      dequantize_block_type(*t.type, src + begin / t.type->block * t.type->block_bytes, out.f32() + begin,
                            std::min(tile, n - begin), where);
    });
    return out;
  }

  std::shared_ptr<const GgufFile> gguf_;
  const GgufArch& arch_;
};

}  // namespace

std::shared_ptr<const Checkpoint> open_gguf(const std::filesystem::path& path) {
  return std::make_shared<GgufCheckpoint>(path);
}

}  // namespace awq
