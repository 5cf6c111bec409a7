// Stands in for cuda/ in a build without it.
#include "base/error.h"
#include "kernels/devices.h"
#include "model/block_runner.h"
#include "model/device_model.h"

namespace awq {

std::shared_ptr<DeviceModel> make_cuda_model(std::shared_ptr<const ModelConfig>, const Tensor&, bool) {
  fail(Code::kUnsupported, "--device cuda: {}; use --device auto or cpu", cuda_absence());
}

std::unique_ptr<BlockRunner> make_cuda_block_runner(std::shared_ptr<const ModelConfig>, DType, QuantBackend&) {
  fail(Code::kUnsupported, "--device cuda: {}; use --device auto or cpu", cuda_absence());
}

}  // namespace awq
