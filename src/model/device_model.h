// The part of a model that a device runs: weights and caches in its memory, one call per step. Model (model.h) owns one and
// passes its calls on, so that evaluation, the engine and the commands see no difference.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "model/draw.h"
#include "tensor/tensor.h"

namespace awq {

struct BatchView;
struct BlockSpec;
struct BlockWeights;
struct ModelConfig;

class DeviceModel {
 public:
  virtual ~DeviceModel() = default;
  // Blocks in order, then finish().
  virtual void add_block(const BlockSpec& spec, const BlockWeights& weights) = 0;
  // head_bits 8 or 4 rounds the output layer, 0 leaves it at 16 bits.
  virtual void finish(const Tensor& final_norm, const Tensor& head, int head_bits) = 0;

  // A cache of so many pages for all layers: dtype I8 in 8 bits with scales, others in the activations' type. Bytes of one page.
  virtual std::shared_ptr<void> make_cache(int64_t pages, DType dtype) const = 0;
  virtual int64_t page_bytes(DType dtype) const = 0;
  // As Model::forward; cache null: every span is a whole sequence. One caller at a time runs, others wait.
  virtual void forward(const BatchView& batch, void* cache, float* hidden) const = 0;
  // The same, with the states kept on the device: `states` is made when empty, and belongs to one caller.
  virtual void forward(const BatchView& batch, void* cache, std::shared_ptr<void>& states) const = 0;
  // Model::draw of such states.
  virtual void draw(const void* states, std::span<const RowDraw> rows, DrawnRows& out) const = 0;
  virtual void logits(const float* hidden, int64_t rows, float* out) const = 0;
  // The most likely next token after each span's last one; spans of one token only. Nothing but ids leaves the device.
  virtual void greedy(const BatchView& batch, void* cache, int32_t* ids) const = 0;

  virtual int64_t bytes() const = 0;
  virtual int64_t decode_bytes() const = 0;
  virtual std::map<std::string, int64_t> kernels() const = 0;
};

// Throws kUnsupported without a GPU or CUDA ("no CUDA device"), and for shapes the kernels do not take. Activations are bf16
// where the embedding is, fp16 otherwise. invariant: a token gets the same bits in any batch, in prompts cut anywhere and in decoding.
std::shared_ptr<DeviceModel> make_cuda_model(std::shared_ptr<const ModelConfig> config, const Tensor& embedding, bool invariant);
}  // namespace awq
