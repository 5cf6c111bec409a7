// The files of a model folder that belong beside the weights of whatever is made from it.
#pragma once
#include <filesystem>
#include <vector>

#include "checkpoint/checkpoint.h"

namespace awq {

// Tokenizer, chat template, generation and processor settings and licence texts verbatim, in order of names;
// the model card as README.source.md (an earlier awq output hands on the one it carries). Never weights,
// indexes or config.json.
std::vector<Checkpoint::SideFile> read_side_files(const std::filesystem::path& dir);

}  // namespace awq
