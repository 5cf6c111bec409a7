// Parts of a tokenizer.json that spec_read.cpp leaves to its neighbours.
#pragma once
#include "tokenizer/json_node.h"
#include "tokenizer/spec.h"

namespace awq {

ModelSpec read_model(const JsonNode& n);
// `id`: given by the place of the token where the file does not say it.
AddedToken read_added_token(const JsonNode& n, std::optional<int32_t> id = {});

}  // namespace awq
