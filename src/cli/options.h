// What all commands share: the options accepted everywhere, the form of help and of command line errors, and
// how results reach standard output.
//
// A command is one file cmd_<name>.cpp with `void add_<name>(CLI::App&, Context&)`, declared in commands.h
// and listed in main.cpp. It declares its options with CLI11 and leaves a function that does the work:
//
//   void add_env(CLI::App& app, Context& context) {
//     auto& command = add_command(app, context, {"env", "Show ...", "awq env\nawq env --json"},
//                                 [&context] { return run(context); });
//     command.add_option(...);
//   }
//
// The work starts after the whole command line has been read, with threads, log sink and progress in place.
// It returns the exit status, 0 for done; failures are thrown as awq::Error.
#pragma once
#include <CLI/CLI.hpp>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/progress.h"

namespace awq {
enum class Device : uint8_t;  // model/model.h
}

namespace awq::cli {

// The heading in --help of the options every command accepts.
inline constexpr const char* kEverywhere = "Everywhere";

struct Context {
  bool json = false;              // --json: results as one JSON object
  std::string progress = "auto";  // --progress: auto (a bar on a terminal, else lines), plain (lines), none
  bool quiet = false;             // -q: neither progress nor anything below a warning
  bool verbose = false;           // -v: debug messages too
  int threads = 0;                // --threads; 0: the cores this process may use
  std::string device = "auto";    // --device: auto, cpu, cuda
  ProgressFn report;  // give it to the library; draws on standard error. Set before `run` is called.
  // Ends the progress shown: before text is streamed to standard output, which may be the same terminal.
  std::function<void()> end_report;
  std::function<int()> run;  // the chosen command's work, set while the command line is read
};

struct CommandText {
  const char* name;
  const char* summary;   // one line, at most 60 characters: it stands in the list of commands
  const char* examples;  // two lines to copy, each at most 78 characters
};

// Adds a subcommand with the options accepted everywhere.
CLI::App& add_command(CLI::App& app, Context& context, const CommandText& text, std::function<int()> run);
void add_common_options(CLI::App& command, Context& context);

// --precision fast|exact|bf16 and --head-bits, of commands that run a model.
void add_precision_options(CLI::App& command, std::string& precision, int& head_bits);
// --load-in nf4|rtn|int8, of commands that generate text: dense linears are quantized while they are loaded.
void add_load_in_option(CLI::App& command, std::string& name);
// --invariant, of the same commands.
void add_invariant_option(CLI::App& command, bool& invariant);
// --pack-cache (model/pack_cache.h).
void add_pack_cache_option(CLI::App& command, std::string& directory);
// --kv-dtype, of commands with a key/value cache; its default is what `name` holds.
CLI::Option* add_kv_dtype_option(CLI::App& command, std::string& name);
// Where --device lets models run; auto is the CPU.
Device model_device(const Context& context);
// Refuses --device cuda for work that has no device path.
void check_runs_on_cpu(const Context& context, std::string_view command);

// Accepts exactly these words; anything else is refused with the nearest of them.
CLI::Validator one_of(std::vector<std::string> words);

// Opens with the examples, then summary, usage, arguments and options; at most 80 columns.
class HelpFormatter : public CLI::Formatter {
 public:
  std::string make_help(const CLI::App* app, std::string name, CLI::AppFormatMode mode) const override;
};

// The nearest of `words` by edit distance (swapped neighbours count once) or the only one `word` begins, ""
// when none is near enough to suggest.
std::string nearest(std::string_view word, const std::vector<std::string>& words);

// One line for standard error: what is wrong with the command line, and what was probably meant.
std::string explain(const CLI::App& app, const CLI::ParseError& error);

// A check for CLI11's options: "" where the value is "auto" or a whole number from 1 on, else what is wrong.
std::string whole_number_or_auto(const std::string& value);

// A figure for --json; null where there is none.
nlohmann::ordered_json json_number(double value);

// Results, on standard output. Text that is not UTF-8 (a model's raw output) is made so.
void print_json(const nlohmann::ordered_json& object);
void print_line(std::string_view line);

}  // namespace awq::cli
