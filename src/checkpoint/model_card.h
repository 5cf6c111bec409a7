// README.md of an output: the model card that model hubs show.
#pragma once
#include <string>

#include "checkpoint/manifest.h"

namespace awq {

struct CardFacts {
  std::string name;            // directory name of the output, "qwen-awq"
  std::string base_model;      // "org/name" or the source's directory name
  std::string license;         // Checkpoint::license(), "" if unknown
  double bits_per_weight = 0;  // over the quantized linears, scales and zeros included
  std::string command;         // public_command(argv)
};

// Front matter, what the model is, results of the check, calibration, the command, and how to load it.
// Depends on nothing but its arguments. `manifest.files` is not used: the card is itself one of the files.
std::string model_card(const CardFacts& facts, const Manifest& manifest);

}  // namespace awq
