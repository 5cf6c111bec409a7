#include "kernels/quant_compensate.h"

namespace awq::compensation::portable {
#include "kernels/quant_compensate_impl.h"
}  // namespace awq::compensation::portable
