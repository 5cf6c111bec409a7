#include "kernels/cuda/device.h"

namespace awq::cuda {

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // not to be found again by the next check
  Code code = Code::kInternal;
  if (error == cudaErrorMemoryAllocation) code = Code::kNoMemory;
  if (error == cudaErrorNoDevice || error == cudaErrorInsufficientDriver ||
      error == cudaErrorNoKernelImageForDevice)
    code = Code::kUnsupported;
  fail(code, "CUDA: {}: {} ({})", what, cudaGetErrorString(error), cudaGetErrorName(error));
}

Buffer::Buffer(int64_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  const cudaError_t error = cudaMalloc(&data_, static_cast<size_t>(bytes));
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    size_t available = 0, total = 0;
    cudaMemGetInfo(&available, &total);
    fail(Code::kNoMemory, "CUDA: {} bytes of device memory wanted, {} of {} are free", bytes, available,
         total);
  }
  check(error, "allocating device memory");
}

Buffer::~Buffer() { cudaFree(data_); }

void Buffer::upload(const void* from, int64_t bytes) {
  check_internal(bytes <= bytes_, "upload beyond a device buffer");
  check(cudaMemcpy(data_, from, static_cast<size_t>(bytes), cudaMemcpyHostToDevice), "copying to the device");
  check(cudaStreamSynchronize(nullptr), "copying to the device");  // of small copies only the staging is done
}

void Buffer::download(void* to, int64_t bytes) const {
  check_internal(bytes <= bytes_, "download beyond a device buffer");
  check(cudaDeviceSynchronize(), "waiting for the device");
  check(cudaMemcpy(to, data_, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost), "copying from the device");
}

Stream::Stream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "creating a stream"); }
Stream::~Stream() { cudaStreamDestroy(stream_); }
void Stream::synchronize() const { check(cudaStreamSynchronize(stream_), "waiting for a stream"); }

}  // namespace awq::cuda
