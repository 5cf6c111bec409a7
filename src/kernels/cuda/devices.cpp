#include "kernels/devices.h"

#include <cuda_runtime_api.h>

#include "kernels/cuda/device.h"

namespace awq {
namespace {

cudaError_t count_devices(int* count) {
  *count = 0;
  const cudaError_t error = cudaGetDeviceCount(count);
  if (error != cudaSuccess) cudaGetLastError();  // not to be found by the next check
  return error;
}

}  // namespace

std::vector<CudaDevice> cuda_devices() {
  std::vector<CudaDevice> devices;
  int count = 0;
  if (count_devices(&count) != cudaSuccess) return devices;
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp p;
    cuda::check(cudaGetDeviceProperties(&p, i), "reading a device's properties");
    devices.push_back(
        {p.name, p.major, p.minor, p.multiProcessorCount, static_cast<int64_t>(p.totalGlobalMem)});
  }
  return devices;
}

std::string cuda_absence() {
  int count = 0;
  const cudaError_t error = count_devices(&count);
  if (error == cudaSuccess || error == cudaErrorNoDevice || error == cudaErrorInsufficientDriver)
    return "no CUDA device";
  return std::string("no CUDA device: ") + cudaGetErrorString(error);
}

}  // namespace awq
