// A model's linears on the device, and its tensors in device memory.
#pragma once
#include <optional>

#include "kernels/cuda/int8_linear.h"
#include "model/model.h"

namespace awq {

// Throws kUnsupported for a model whose attention or rotation the kernels do not take.
void check_runs_on_device(const ModelConfig& config);
DType act_dtype(cuda::Act act);
// Copies to an offset of a buffer; the host's memory may go when it returns.
void put(const cuda::Buffer& to, int64_t offset, const void* from, int64_t bytes);
cuda::Buffer cleared(int64_t bytes);  // zeros
cuda::Buffer uploaded(const Tensor& t);
cuda::Buffer uploaded_f32(const Tensor& t);  // empty where t is

// Linears with one input as one product: packed (affine codes in 4 or 8 bits, NF4), int8 with int8 inputs, or dense in the
// activations' type.
struct DeviceLinear {
  std::optional<cuda::Linear> packed;
  std::optional<cuda::Int8Linear> int8;
  std::optional<cuda::DenseLinear> dense;
  cuda::Buffer rows, bias;  // rows: of the dense one
  int64_t out = 0, in = 0;
  bool gated = false;  // takes Output::kGated

  void run(cuda::Context& context, cuda::Act act, const cuda::Product& product, cudaStream_t stream) const {
    if (int8) return int8->run(context, act, product, stream);
    packed ? packed->run(context, act, product, stream) : dense->run(context, act, product, stream);
  }
  bool takes_pieces(const cuda::Context& context, int64_t tokens) const {
    if (int8) return false;
    return packed ? packed->takes_pieces(context, tokens) : dense->takes_pieces(context, tokens);
  }
  // Of what takes pieces.
  int strips() const { return packed ? packed->strips() : dense->strips(); }
  int64_t bytes() const { return packed ? packed->bytes() : int8 ? int8->bytes() : rows.bytes(); }
  const char* kernel() const;  // null: dense
};

// The linears of a block that read a site. Throws kUnsupported for inputs and outputs that are no multiples of 8.
DeviceLinear make_linear(const BlockSpec& spec, const BlockWeights& weights, Site site, cuda::Act act);

}  // namespace awq
