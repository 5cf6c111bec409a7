// The ids that end a text, as a checkpoint declares them.
#pragma once
#include <cstdint>
#include <vector>

#include "checkpoint/checkpoint.h"

namespace awq {

// eos_token_id of config.json and of generation_config.json together, each a number or a list: chat models
// name the end of a turn only in the second. Ascending, without duplicates; empty when neither says.
std::vector<int32_t> end_ids(const Checkpoint& checkpoint);

}  // namespace awq
