// CUDA devices, their memory and streams with owners, and CUDA's failures as awq::Error.
#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <utility>

#include "base/error.h"

namespace awq::cuda {

// Throws kNoMemory when device memory ran out, kUnsupported without a usable device or driver, else
// kInternal; the message names what was done and CUDA's own text.
void check(cudaError_t error, const char* what);

// Device memory; uninitialised. Allocation and release may wait for the device: not for the steps of a
// forward pass.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t bytes);
  ~Buffer();
  Buffer(Buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }

  void* data() const { return data_; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  int64_t bytes() const { return bytes_; }
  void upload(const void* from, int64_t bytes);  // from the host; returns when done
  void download(void* to, int64_t bytes) const;  // to the host; waits for the whole device

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

class Stream {
 public:
  Stream();
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  cudaStream_t get() const { return stream_; }
  void synchronize() const;

 private:
  cudaStream_t stream_ = nullptr;
};

}  // namespace awq::cuda
