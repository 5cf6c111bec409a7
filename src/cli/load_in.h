// --load-in nf4|rtn|int8, of commands that generate text: dense linears are quantized while they are loaded.
#pragma once
#include <CLI/CLI.hpp>
#include <string>

#include "model/model.h"

namespace awq::cli {

void add_load_in_option(CLI::App& command, std::string& name);
LoadIn load_in_named(const std::string& name);  // "" is kStored

}  // namespace awq::cli
