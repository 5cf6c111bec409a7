// The scales a quantized block was folded with, found again by comparing it with its source: then the stored numbers can be
// judged in place, linear by linear.
#pragma once
#include <vector>

#include "model/model.h"

namespace awq {

// One vector per scale group of `spec`, in its order: [channels of the site]; ones where the group was not scaled. Both hold
// dense F32 weights. Exact where `folded` is not rounded; else the error of a row's scale is of the order of the row's relative
// rounding error. kBadFile, naming `where`, when the two cannot be the same block (a norm that is no multiple of the source's).
std::vector<std::vector<float>> recover_scales(const BlockSpec& spec, const ModelConfig& config, const BlockWeights& source,
                                               const BlockWeights& folded, const std::string& where);

}  // namespace awq
