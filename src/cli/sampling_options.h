// The options of sampling, the same for every command that generates.
#pragma once
#include "cli/options.h"
#include "runtime/sampling.h"

namespace awq::cli {

void add_sampling_options(CLI::App& command, SamplingParams& sampling);

}  // namespace awq::cli
