// Host memory that the device copies from and to without staging.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/device.h"

namespace awq {

class Pinned {
 public:
  Pinned() = default;
  ~Pinned() { cudaFreeHost(data_); }
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;
  // Room for `count` of T; what was there is lost when it grows.
  template <class T>
  T* grown(int64_t count) {
    const int64_t bytes = count * static_cast<int64_t>(sizeof(T));
    if (bytes > bytes_) {
      cudaFreeHost(data_);
      data_ = nullptr, bytes_ = 0;
      cuda::check(cudaMallocHost(&data_, static_cast<size_t>(bytes)), "allocating pinned memory");
      bytes_ = bytes;
    }
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

}  // namespace awq
