#include "cli/load_in.h"

#include "cli/options.h"

namespace awq::cli {

void add_load_in_option(CLI::App& command, std::string& name) {
  command.add_option("--load-in", name, "nf4|rtn|int8: quantize dense linears while loading")
      ->check(one_of({"nf4", "rtn", "int8"}))
      ->type_name("NAME");
}

LoadIn load_in_named(const std::string& name) {
  return name == "nf4"    ? LoadIn::kNf4
         : name == "rtn"  ? LoadIn::kRtn
         : name == "int8" ? LoadIn::kInt8
                          : LoadIn::kStored;
}

}  // namespace awq::cli
