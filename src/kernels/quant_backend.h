// Where the heavy operations of quantization run: on the CPU, by the functions of quant_ops.h, or on a GPU. What is tried, in which
// order and what is kept is decided above (quant/), once for both; matrices stay where the operations are, and only scales, sums
// and finished codes move.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/quant_ops.h"
#include "tensor/tensor.h"

namespace awq {

// A weight [rows, cols]. On the CPU an F32 tensor that shares its numbers with the tensor it was made of; on a device only its
// shape is here.
struct QuantMatrix : Tensor {
  QuantMatrix() = default;
  QuantMatrix(Tensor t) : Tensor(std::move(t)) {}  // NOLINT: implicit
  std::shared_ptr<void> device = {};
};

// Codes, scales and zeros are empty while they are on a device; QuantBackend::fetch brings them.
struct RoundedWeight : QuantWeight {
  RoundedWeight() = default;
  RoundedWeight(QuantWeight q) : QuantWeight(std::move(q)) {}  // NOLINT: implicit
  std::shared_ptr<void> device = {};
};

// G [dim, dim], borrowed.
struct GramView {
  int64_t dim = 0;
  const float* host = nullptr;
  void* device = nullptr;
};
// One that its holder owns.
struct GramMatrix {
  int64_t dim = 0;
  std::vector<float> host = {};
  std::shared_ptr<void> device = {};
  GramView view() const { return {dim, host.data(), device.get()}; }
};

// What Compensation (quant_ops.h) does, wherever the matrices are.
class Compensator {
 public:
  virtual ~Compensator() = default;
  virtual void improve(const QuantMatrix& w, int sweeps, int refits, RoundedWeight& q) const = 0;
};

class QuantBackend {
 public:
  virtual ~QuantBackend() = default;

  // On the CPU `w` must be F32 and is shared; a device takes F32, F16 and BF16 and makes a copy.
  virtual QuantMatrix load(const Tensor& w) = 0;
  virtual QuantMatrix load(const QuantWeight& w) = 0;  // its numbers
  virtual Tensor read(const QuantMatrix& w) = 0;  // F32; on the CPU shared
  // Rows first, first + step, ... of each, below each other.
  struct Rows {
    const QuantMatrix* from;
    int64_t first, step;
  };
  virtual QuantMatrix gather(const std::vector<Rows>& rows) = 0;
  // A copy with column k times s[k]; and the same in place; row first + i divided by s[i], in place.
  virtual QuantMatrix scaled(const QuantMatrix& w, const std::vector<float>& s) = 0;
  virtual void scale_columns(QuantMatrix& w, const std::vector<float>& s) = 0;
  virtual void divide_rows(QuantMatrix& w, int64_t first, const std::vector<float>& s) = 0;
  // sum[k] += Σ over rows of |w| / (the largest |w| of the row's group + 1e-6).
  virtual void add_relative_magnitudes(const QuantMatrix& w, int64_t group, std::vector<double>& sum) = 0;
  // g [dim, dim]: for statistics that were gathered elsewhere, and back.
  virtual GramMatrix load_gram(std::vector<float> g, int64_t dim) = 0;
  virtual std::vector<float> read_gram(const GramView& g) = 0;
  // The Gram matrix of x / s.
  virtual GramMatrix scaled_gram(const GramView& g, const std::vector<float>& s) = 0;

  // quant_ops.h: gram_loss of minmax_error, for comparing candidates only (products may be bf16); quantize_minmax; range_search.
  virtual double minmax_loss(const QuantMatrix& w, const Scheme& scheme, DType scale_dtype, const std::vector<float>& channel_scale,
                             const GramView& g) = 0;
  virtual RoundedWeight minmax(const QuantMatrix& w, const Scheme& scheme, DType scale_dtype) = 0;
  virtual RoundedWeight search(const QuantMatrix& w, const Scheme& scheme, DType scale_dtype, const GramView& g, RangeEffort effort) = 0;
  // tr(E G Eᵀ) for E = W - Q, and for E = W. comparing: products may be bf16, as in minmax_loss.
  virtual double loss(const QuantMatrix& w, const RoundedWeight& q, const GramView& g, bool comparing = false) = 0;
  virtual double energy(const QuantMatrix& w, const GramView& g) = 0;
  virtual std::unique_ptr<Compensator> compensation(const GramView& g, double damping) = 0;
  virtual void fetch(RoundedWeight& q) = 0;
  virtual int64_t peak_bytes() const { return 0; }  // of device memory, the driver's own part included
};

QuantBackend& cpu_quant_backend();
// On the first GPU, with so many bytes of its memory; 0: nine tenths of what is free. Throws kUnsupported without one ("no CUDA device").
std::unique_ptr<QuantBackend> make_cuda_quant_backend(int64_t vram_bytes);

}  // namespace awq
