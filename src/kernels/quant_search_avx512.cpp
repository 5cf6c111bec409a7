#include "kernels/quant_search.h"

namespace awq::search::avx512 {
#include "kernels/quant_search_impl.h"
}  // namespace awq::search::avx512
