#include "kernels/quant_factor.h"

namespace awq::factor::avx2 {
#include "kernels/quant_factor_impl.h"
}  // namespace awq::factor::avx2
