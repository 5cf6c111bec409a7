// The GPUs of this machine, for messages and reports; empty in a build without CUDA (no_cuda.cpp).
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace awq {

struct CudaDevice {
  std::string name;
  int major = 0, minor = 0;  // compute capability
  int multiprocessors = 0;
  int64_t memory_bytes = 0;
};

std::vector<CudaDevice> cuda_devices();
// Why there are none: "built without CUDA", "no CUDA device", or the driver's word.
std::string cuda_absence();

}  // namespace awq
