#include "kernels/quant_factor.h"

namespace awq::factor::portable {
#include "kernels/quant_factor_impl.h"
}  // namespace awq::factor::portable
