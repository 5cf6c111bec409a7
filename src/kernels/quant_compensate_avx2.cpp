#include "kernels/quant_compensate.h"

namespace awq::compensation::avx2 {
#include "kernels/quant_compensate_impl.h"
}  // namespace awq::compensation::avx2
