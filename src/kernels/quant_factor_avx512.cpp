#include "kernels/quant_factor.h"

namespace awq::factor::avx512 {
#include "kernels/quant_factor_impl.h"
}  // namespace awq::factor::avx512
