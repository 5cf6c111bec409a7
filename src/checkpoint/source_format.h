// What the weights of a checkpoint are stored as, in one name and one number.
#pragma once
#include <optional>
#include <vector>

#include "checkpoint/checkpoint.h"

namespace awq {

// Over the linear weights of the layers: matrices (and stacks of them) named "...layers.N...weight", and
// AWQ's qweight/qzeros/scales. Embeddings and the head are left out, as in the sizes people quote for a
// format.
SourceFormat describe_format(const std::vector<StoredTensor>& tensors, const std::optional<PackedConfig>& packing);

}  // namespace awq
