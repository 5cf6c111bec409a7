#include "kernels/quant_compensate.h"

namespace awq::compensation::avx512 {
#include "kernels/quant_compensate_impl.h"
}  // namespace awq::compensation::avx512
