// Stands in for cuda/ in a build without it.
#include "kernels/devices.h"
#include "kernels/quant_backend.h"

namespace awq {

std::vector<CudaDevice> cuda_devices() { return {}; }
std::string cuda_absence() { return "built without CUDA"; }
std::unique_ptr<QuantBackend> make_cuda_quant_backend(int64_t) {
  fail(Code::kUnsupported, "--device cuda: {}; use --device auto or cpu", cuda_absence());
}

}  // namespace awq
