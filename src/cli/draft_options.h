// The options of speculative decoding, the same for every command that generates.
#pragma once
#include <string>

#include "cli/options.h"
#include "model/model.h"
#include "runtime/engine.h"
#include "tokenizer/tokenizer.h"

namespace awq::cli {

struct DraftOptions {
  int64_t tokens = -1;  // -1: kModelDrafts with a draft model, else none
  std::string model;
};

void add_draft_options(CLI::App& command, DraftOptions& options);
// Loads the draft model as `load` says and sets the engine's options. kBadArgument when its tokenizer is not `tokenizer`'s equal.
void apply_draft_options(const DraftOptions& options, const LoadOptions& load, const Tokenizer& tokenizer, EngineOptions& engine);

}  // namespace awq::cli
