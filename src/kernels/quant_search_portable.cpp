#include "kernels/quant_search.h"

namespace awq::search::portable {
#include "kernels/quant_search_impl.h"
}  // namespace awq::search::portable
