// Quantization's operations on a GPU (kernels/quant_backend.h). One stream; memory comes from the driver's stream-ordered pool and
// counts against a budget.
#pragma once
#include <memory>

#include "base/thread_pool.h"
#include "kernels/cuda/quant_blas.h"
#include "kernels/cuda/quant_kernels.h"
#include "kernels/quant_backend.h"

namespace awq::cuda {

// Blocks are handed out and given back in the order of one stream. Throws kNoMemory beyond the budget, saying so.
class DeviceMemory {
 public:
  DeviceMemory(cudaStream_t stream, int64_t budget) : stream_(stream), budget_(budget) {}
  std::shared_ptr<void> take(int64_t bytes);
  int64_t used() const { return used_; }
  int64_t peak() const { return peak_; }
  int64_t left() const { return budget_ - used_; }

 private:
  cudaStream_t stream_;
  int64_t budget_, used_ = 0, peak_ = 0;
};

// Pinned memory through which large arrays pass between the host's pages and the device, filled and emptied by all threads.
class Staging {
 public:
  Staging() = default;
  ~Staging();
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;
  void upload(void* to, const void* from, int64_t bytes, cudaStream_t stream);  // `from` may change when it returns
  void download(void* to, const void* from, int64_t bytes, cudaStream_t stream);

 private:
  static constexpr int64_t kBytes = int64_t{32} << 20;
  void open();
  void* buffers_[2] = {};
  cudaEvent_t done_[2] = {};
};

// What GramView::device points to.
struct DeviceGram {
  int64_t dim = 0;
  std::shared_ptr<void> values;      // fp32 [dim, dim]
  std::shared_ptr<void> high, low;   // made when a large product first wants them; null after the values have changed
  float* at() const { return static_cast<float*>(values.get()); }
};

// What RoundedWeight::device points to.
struct DeviceRounding {
  std::shared_ptr<void> memory;
  RoundingView view;
};

class CudaQuantBackend : public QuantBackend {
 public:
  // budget: bytes of device memory, all of it counted; 0: nine tenths of what is free.
  explicit CudaQuantBackend(int64_t budget);
  ~CudaQuantBackend() override;

  QuantMatrix load(const Tensor& w) override;
  QuantMatrix load(const QuantWeight& w) override;
  Tensor read(const QuantMatrix& w) override;
  QuantMatrix gather(const std::vector<Rows>& rows) override;
  QuantMatrix scaled(const QuantMatrix& w, const std::vector<float>& s) override;
  void scale_columns(QuantMatrix& w, const std::vector<float>& s) override;
  void divide_rows(QuantMatrix& w, int64_t first, const std::vector<float>& s) override;
  void add_relative_magnitudes(const QuantMatrix& w, int64_t group, std::vector<double>& sum) override;
  GramMatrix load_gram(std::vector<float> g, int64_t dim) override;
  std::vector<float> read_gram(const GramView& g) override;
  GramMatrix scaled_gram(const GramView& g, const std::vector<float>& s) override;
  double minmax_loss(const QuantMatrix& w, const Scheme& scheme, DType scale_dtype, const std::vector<float>& channel_scale,
                     const GramView& g) override;
  RoundedWeight minmax(const QuantMatrix& w, const Scheme& scheme, DType scale_dtype) override;
  RoundedWeight search(const QuantMatrix& w, const Scheme& scheme, DType scale_dtype, const GramView& g, RangeEffort effort) override;
  double loss(const QuantMatrix& w, const RoundedWeight& q, const GramView& g, bool comparing) override;
  double energy(const QuantMatrix& w, const GramView& g) override;
  std::unique_ptr<Compensator> compensation(const GramView& g, double damping) override;
  void fetch(RoundedWeight& q) override;
  int64_t peak_bytes() const override { return memory_.peak() + fixed_bytes_; }

  // For what runs beside it on the same stream (model/cuda).
  cudaStream_t stream() const { return stream_.get(); }
  DeviceMemory& memory() { return memory_; }
  QuantBlas& blas() { return blas_; }
  Cublas& linears() { return linears_; }
  int shared_limit() const { return shared_limit_; }
  void upload(void* to, const void* from, int64_t bytes);    // returns when `from` may change
  void download(void* to, const void* from, int64_t bytes);  // waits for the stream
  template <class T>
  std::shared_ptr<void> uploaded(const std::vector<T>& values) {
    auto memory = memory_.take(static_cast<int64_t>(values.size() * sizeof(T)));
    upload(memory.get(), values.data(), static_cast<int64_t>(values.size() * sizeof(T)));
    return memory;
  }
  // c [m, dim] = a [m, dim] G.
  void times_gram(const float* a, int64_t m, DeviceGram& g, float* c);
  // tr(a G aᵀ), a row at a time added up in order: a is what `fill` writes for rows first .. first + n.
  using FillRows = Borrowed<int64_t, int64_t, float*>;
  double quadratic(int64_t rows, DeviceGram& g, FillRows fill);

 private:
  DeviceRounding& rounding_of(const RoundedWeight& q) const { return *static_cast<DeviceRounding*>(q.device.get()); }
  RoundedWeight empty_rounding(const QuantMatrix& w, const Scheme& scheme, DType scale_dtype);

  Stream stream_;
  Staging staging_;
  QuantBlas blas_;
  Cublas linears_;
  int64_t fixed_bytes_ = 0;
  DeviceMemory memory_;
  int shared_limit_ = 0;
};

RoundingView view_of(const Scheme& scheme, DType scale_dtype, int64_t rows, int64_t cols);
std::shared_ptr<DeviceGram> empty_gram(CudaQuantBackend& backend, int64_t dim);  // zeros
inline DeviceGram& gram_of(const GramView& g) { return *static_cast<DeviceGram*>(g.device); }
inline float* floats(const QuantMatrix& w) { return static_cast<float*>(w.device.get()); }
// Rows at a time where `bytes_per_row` of scratch are wanted for each.
int64_t rows_at_once(int64_t rows, int64_t bytes_per_row);

std::unique_ptr<Compensator> make_compensator(CudaQuantBackend& backend, DeviceGram& g, double damping);

}  // namespace awq::cuda
