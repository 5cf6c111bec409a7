#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "model/model.h"

namespace awq::python {

// Weights in memory, and the ids that end a text as the checkpoint declares them.
struct LoadedModel {
  std::shared_ptr<const Model> model;
  std::vector<int32_t> end_ids;
};

}  // namespace awq::python
