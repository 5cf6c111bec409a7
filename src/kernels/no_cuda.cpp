// Stands in for cuda/ in a build without it.
#include "kernels/devices.h"

namespace awq {

std::vector<CudaDevice> cuda_devices() { return {}; }
std::string cuda_absence() { return "built without CUDA"; }

}  // namespace awq
