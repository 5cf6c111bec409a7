#include "cli/sampling_options.h"

namespace awq::cli {

void add_sampling_options(CLI::App& command, SamplingParams& sampling) {
  const char* group = "Sampling";
  command.add_option("--temperature", sampling.temperature, "0 takes the likeliest token each time")
      ->type_name("T")
      ->capture_default_str()
      ->group(group);
  command.add_option("--top-k", sampling.top_k, "draw among the K likeliest tokens; 0: all")
      ->type_name("K")
      ->group(group);
  command.add_option("--top-p", sampling.top_p, "draw among the likeliest that make up P")
      ->type_name("P")
      ->group(group);
  command.add_option("--min-p", sampling.min_p, "draw among those with P times the largest probability")
      ->type_name("P")
      ->group(group);
  command
      .add_option("--repetition-penalty", sampling.repetition_penalty,
                  "above 1 disfavours tokens that occurred")
      ->type_name("R")
      ->group(group);
  command.add_option("--seed", sampling.seed, "the same seed draws the same text")
      ->type_name("N")
      ->capture_default_str()
      ->group(group);
}

}  // namespace awq::cli
