// A decoder that runs: blocks of attention and MLP over a paged key/value cache. One sequence is a batch of
// one; calibration, evaluation and serving use the same forward.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "base/progress.h"
#include "checkpoint/checkpoint.h"
#include "kernels/linear.h"
#include "kernels/ops.h"
#include "model/arch.h"
#include "model/config.h"
#include "model/device_model.h"
#include "model/draw.h"

namespace awq {

// A step's tokens: the concatenation of spans of consecutive tokens of distinct sequences. positions[i] is
// the position of tokens[i] in its sequence.
struct BatchView {
  std::span<const int32_t> tokens;
  std::span<const int32_t> positions;
  std::span<const SpanView> spans;
  // Tokens each span's sequence is to have in the end; empty: those it has after this step. Only rope types
  // that depend on the length (dynamic, longrope) look: cached keys keep the rotation they got, so a sequence
  // that is to grow past the original length is rotated alike in all its steps only when its final length is
  // given from the first.
  std::span<const int64_t> lengths = {};
};

// Rotates x [tokens, heads, head_dim] (row stride ldx) to the batch's positions, in place, by what the rope type says for each
// span's length. inv_freq: rope_inv_freq(rope).
void rotate_heads(const RopeConfig& rope, int64_t head_dim, const std::vector<double>& inv_freq, const BatchView& batch, float* x,
                  int64_t ldx, int64_t heads);

class Model;

// Pages of kPageTokens tokens for all layers; page numbers are handed out by the caller (runtime/).
class KvCache {
 public:
  KvCache(const ModelConfig& config, int64_t pages, DType dtype);  // dtype F32, F16, BF16 or I8
  // Where the model runs; on a device in the activations' 16-bit type whichever float type dtype says.
  KvCache(const Model& model, int64_t pages, DType dtype);
  int64_t pages() const { return pages_; }
  int64_t bytes() const { return device_ ? device_bytes_ : storage_.nbytes(); }
  void* device() const { return device_.get(); }  // null in host memory
  KvLayerView layer(int64_t index) const;
  // Bytes one page takes over all layers: in host memory, and where the model runs.
  static int64_t page_bytes(const ModelConfig& config, DType dtype);
  static int64_t page_bytes(const Model& model, DType dtype);

 private:
  Tensor storage_;
  KvLayerView view_;
  int64_t pages_ = 0, device_bytes_ = 0;
  std::shared_ptr<void> device_;
};

// Sees what flows into the linears and between blocks. Called on the thread that runs forward.
class Observer {
 public:
  virtual ~Observer() = default;
  // x [tokens, dim], the input of every linear that reads `site` in block `layer`.
  virtual void on_input(int64_t layer, Site site, const float* x, int64_t tokens, int64_t dim) = 0;
  // hidden [tokens, dim] between blocks: layer 0 is the embedding, layer i + 1 what block i left.
  virtual void on_hidden(int64_t /*layer*/, const float* /*hidden*/, int64_t /*tokens*/, int64_t /*dim*/) {}
  // True makes block `layer` compute its attention weights as a step of their own; only without a cache.
  virtual bool wants_attention(int64_t /*layer*/) { return false; }
  // weights [heads, tokens, tokens] of span number `span`: row q holds how much token q takes from each
  // token.
  virtual void on_attention(int64_t /*layer*/, int64_t /*span*/, const float* /*weights*/, int64_t /*heads*/,
                            int64_t /*tokens*/) {}
};

// One weight as it was found: dense or quantized.
using WeightSource = std::variant<Tensor, QuantWeight>;

// Everything one block stores, by module name.
struct BlockWeights {
  std::map<std::string, Tensor> norms;  // name without ".weight" -> gain F32 [hidden], or [head_dim] for q and k: see load_gain
  std::map<std::string, WeightSource> weights;  // module -> [out, in]
  std::map<std::string, Tensor> biases;         // module -> F32 [out]
  // The dense F32 matrix of a module (dequantized if need be).
  Tensor dense(const std::string& module) const;
  BlockWeights clone() const;  // tensors that may be changed without changing these
};
// dense_f32: every weight becomes a mutable F32 Tensor, as quantization wants it.
// `wanted`, if given, says of a linear whether its weight is loaded; norms and biases always are.
BlockWeights load_block(const Checkpoint& checkpoint, const ModelConfig& config, const BlockSpec& spec,
                        bool dense_f32, const std::function<bool(const LinearSpec&)>& wanted = nullptr);

class PackCache;

// How linears are prepared. Without `fuse` each is a product of its own: to measure what fusing brings. Those that `packed`
// has are taken from there, and others noted in it.
struct LinearOptions {
  LinearOptions(Precision p = Precision::kExact, Product how = Product::kAuto,
                bool fused = true)  // NOLINT: implicit
      : precision(p), product(how), fuse(fused) {}
  Precision precision;
  Product product;
  bool fuse;
  PackCache* packed = nullptr;
};

// Linears with one input, outputs side by side: one product when the parts are stored alike, else several.
class Linear {
 public:
  Linear() = default;
  // bias F32 [out], or empty.
  Linear(const std::vector<const WeightSource*>& weights, Tensor bias, const LinearOptions& options);
  // Parts that are packed already.
  Linear(std::vector<std::unique_ptr<PackedLinear>> parts, Tensor bias);
  // x [tokens, in] -> y [tokens, out], overwritten.
  void run(const float* x, int64_t tokens, float* y) const;
  int64_t out() const { return out_; }
  int64_t in() const { return in_; }
  int64_t bytes() const;
  const std::vector<std::unique_ptr<PackedLinear>>& parts() const { return parts_; }

 private:
  void measure();

  std::vector<std::unique_ptr<PackedLinear>> parts_;
  Tensor bias_;  // F32 [out], empty when no part has one
  int64_t out_ = 0, in_ = 0;
};

// Buffers of a forward pass, grown on demand and reused.
struct Scratch {
  std::vector<float> normed, qkv, attention, gate_up, mlp, delta;
};

// The attention with the norm before it and the sum after it, the MLP with its own, or both.
enum class BlockHalf : uint8_t { kBoth, kAttention, kMlp };

class Block {
 public:
  Block(std::shared_ptr<const ModelConfig> config, const BlockSpec& spec, const BlockWeights& weights,
        const LinearOptions& options);
  // hidden [tokens, hidden] is updated in place. cache == nullptr: every span is a whole sequence from
  // position 0.
  void forward(float* hidden, const BatchView& batch, const KvLayerView* cache, Scratch& scratch, Observer* observer,
               BlockHalf half = BlockHalf::kBoth) const;
  int64_t bytes() const;
  std::vector<const Linear*> linears() const { return {&qkv_, &o_, &gate_up_, &down_}; }

 private:
  void attention(float* hidden, const BatchView& batch, const KvLayerView* cache, Scratch& scratch,
                 Observer* observer) const;
  void mlp(float* hidden, int64_t tokens, Scratch& scratch, Observer* observer) const;
  // x [tokens, heads, head_dim] with row stride ldx, in place.
  void normalise_heads(float* x, int64_t ldx, int64_t tokens, int64_t heads, const Tensor& gain) const;

  std::shared_ptr<const ModelConfig> config_;
  int64_t layer_ = 0, window_ = 0;
  Tensor input_norm_, post_norm_, attention_out_norm_, mlp_out_norm_, q_norm_, k_norm_;  // empty where the architecture has none
  RopeConfig rope_;
  std::vector<double> inv_freq_;  // of short sequences
  Linear qkv_, o_, gate_up_, down_;
};

// Quantizing dense linears while they are loaded, one block at a time. kNf4: blocks of 64; kRtn: 4 bits in the largest group of
// 128, 64, 32 that divides the inputs; kInt8: LLM.int8. Linears that do not fit, and those already quantized, stay.
enum class LoadIn : uint8_t { kStored, kNf4, kRtn, kInt8 };
void quantize_loaded(LoadIn load_in, BlockWeights& block);

enum class Device : uint8_t { kCpu, kCuda };

struct LoadOptions {
  Precision precision = Precision::kExact;
  ProgressFn progress;
  // The output layer, and with it the embedding where they are one table, rounded to so many bits (8 or 4,
  // groups of up to 128 with an integer zero); 0: as stored. Small models move a third of their bytes there.
  int head_bits = 0;
  LoadIn load_in = LoadIn::kStored;
  Product product = Product::kInvariant;  // an answer does not depend on what else the batch holds
  bool fuse = true;
  std::filesystem::path pack_cache = {};  // a directory to keep packed linears in; none if empty (model/pack_cache.h)
  // kCuda: precision, product and fuse do not apply; 4-bit weights meet 16-bit activations, other weights are dense in 16 bits.
  Device device = Device::kCpu;
  // A token gets the same bits in any batch and however its prompt is cut. On the CPU that is so anyway (product), except in kBf16,
  // which is refused; on a device it costs speed.
  bool invariant = false;

  LinearOptions linear() const { return {precision, product, fuse}; }
};

// Throws kUnsupported where options.invariant asks for what the others rule out.
void check_invariant(const LoadOptions& options);

class Model {
 public:
  static std::shared_ptr<const Model> load(const Checkpoint& checkpoint, const LoadOptions& options = {});
  // Assembled from parts: used where blocks come from elsewhere than a checkpoint (quantized in memory).
  Model(std::shared_ptr<const ModelConfig> config, Tensor embedding, Tensor final_norm, const Tensor& head,
        std::vector<std::unique_ptr<Block>> blocks, const LinearOptions& options, int head_bits = 0);
  // With a packed output layer; no embedding where that gives its rows. `stored` is the embedding's type in the checkpoint.
  Model(std::shared_ptr<const ModelConfig> config, Tensor embedding, DType stored, Tensor final_norm,
        std::unique_ptr<PackedLinear> head, std::vector<std::unique_ptr<Block>> blocks);
  // One that a device runs, complete with its output layer.
  Model(std::shared_ptr<const ModelConfig> config, std::shared_ptr<const DeviceModel> device)
      : config_(std::move(config)), device_(std::move(device)) {}

  const ModelConfig& config() const { return *config_; }
  // Runs the batch; hidden becomes the states after the final norm [tokens, hidden]. The caller owns scratch,
  // so one Model serves several threads.
  void forward(const BatchView& batch, const KvCache* cache, Scratch& scratch, std::vector<float>& hidden,
               Observer* observer = nullptr) const;
  // Logits [rows, vocab] of hidden states [rows, hidden] that forward produced.
  void logits(const float* hidden, int64_t rows, float* out) const;
  // As forward; the states stay where the model runs, for draw.
  void forward(const BatchView& batch, const KvCache* cache, Scratch& scratch, States& states) const;
  // What each of `rows` asks for: its logits, or the token drawn from them where the model can (model/draw.h).
  void draw(const States& states, std::span<const RowDraw> rows, DrawnRows& out) const;
  // The device that runs it, null for the CPU.
  const DeviceModel* device() const { return device_.get(); }
  int64_t bytes() const;         // resident weights
  int64_t decode_bytes() const;  // bytes a one-token step reads: all linears and the head
  // Which kernels run how many bytes of weights.
  std::map<std::string, int64_t> kernels() const;

 private:
  void embed_tokens(std::span<const int32_t> ids, float* hidden) const;
  void embedding_rows(std::span<const int32_t> ids, float* hidden) const;  // before they are scaled

  std::shared_ptr<const ModelConfig> config_;
  Tensor embedding_, final_norm_;  // no embedding where the head gives its rows
  float embedding_scale_ = 1;
  std::vector<std::unique_ptr<Block>> blocks_;
  std::unique_ptr<PackedLinear> head_;
  std::shared_ptr<const DeviceModel> device_;
};

// Loads a vector [n] as F32.
Tensor load_vector(const Checkpoint& checkpoint, const std::string& name, int64_t n);
// A norm's gain F32 [n]: the tensor `name` plus config.norm_offset. Gains are what blocks and quantization work with; what is
// stored for one, as F32, is stored_gain, and the way back gain_of.
Tensor load_gain(const Checkpoint& checkpoint, const ModelConfig& config, const std::string& name, int64_t n);
Tensor stored_gain(const ModelConfig& config, const Tensor& gain);
Tensor gain_of(const ModelConfig& config, const Tensor& stored);
// What embeddings of type `stored` are multiplied by: 1, or sqrt(hidden) rounded to that type, as transformers has it.
float embedding_scale(const ModelConfig& config, DType stored);
// Embedding table in its stored float type, [vocab, hidden]; and the head: the embedding when tied.
Tensor load_embedding(const Checkpoint& checkpoint, const ModelConfig& config);
Tensor load_head(const Checkpoint& checkpoint, const ModelConfig& config, const Tensor& embedding);
// A table [rows, cols] rounded to nearest, part by part: bits 8 or 4, groups of 128, 64 or 32 columns (else
// whole rows).
QuantWeight round_table(const Tensor& table, int bits);

}  // namespace awq
