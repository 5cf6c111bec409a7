// The command line: reads it, sets up threads, logs and progress, runs the chosen command, and turns failures
// into exit statuses: 0 done, 1 failed, 2 wrong command line, 130 stopped by Ctrl-C, 143 by SIGTERM; commands
// may return others of their own.
#include <fmt/core.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <new>

#include "base/error.h"
#include "base/log.h"
#include "base/progress.h"
#include "base/thread_pool.h"
#include "base/version.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/progress_bar.h"
#include "base/printable.h"
#include "kernels/devices.h"

namespace awq::cli {
namespace {

volatile std::sig_atomic_t stop_signal = 0;

// The first signal asks the job to stop at its next step; the second ends the process at once.
extern "C" void on_signal(int number) {
  if (stop_signal != 0) ::_exit(128 + number);
  stop_signal = number;
  request_cancel();
}

void catch_signals() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  for (const int number : {SIGINT, SIGTERM}) ::sigaction(number, &action, nullptr);
}

void add_commands(CLI::App& app, Context& context) {
  add_quantize(app, context);
  add_eval(app, context);
  add_generate(app, context);
  add_chat(app, context);
  add_serve(app, context);
  add_bench(app, context);
  add_bench_serve(app, context);
  add_inspect(app, context);
  add_verify(app, context);
  add_compare(app, context);
  add_diagnose(app, context);
  add_gate(app, context);
  add_report(app, context);
  add_env(app, context);
}

// Everything a command may rely on when its work starts.
void prepare(Context& context, ProgressBar& bar) {
  if (context.device == "cuda" && cuda_devices().empty())
    fail(Code::kUnsupported, "--device cuda: {}; use --device auto or cpu", cuda_absence());
  if (context.threads > 0) set_threads(context.threads);
  context.report = [&bar](const Progress& progress) { bar.update(progress); };
  context.end_report = [&bar] { bar.finish(); };
  const Level least = context.verbose ? Level::kDebug : context.quiet ? Level::kWarning : Level::kInfo;
  set_log_sink([&bar, least](Level level, std::string_view line) {
    if (level < least) return;
    bar.line(level == Level::kWarning ? fmt::format("awq: warning: {}", line) : std::string(line));
  });
}

// One line, whatever text of a file stands in the message: no line breaks and no control sequences for the
// terminal.
int fail_with(int status, std::string_view message) {
  constexpr size_t kLongest = 16384;
  fmt::print(stderr, "awq: error: {}\n", printable(message, kLongest));
  return status;
}

int run(Context& context) {
  ProgressBar bar(context.quiet ? ProgressStyle::kNone : progress_style(context.progress, stderr), stderr);
  struct SinkGuard {  // the sink refers to the bar
    ~SinkGuard() { set_log_sink(nullptr); }
  } guard;
  try {
    prepare(context, bar);
    const int status = context.run();
    bar.finish();
    if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0)
      return fail_with(1, "standard output: cannot write the result");
    return status;
  } catch (const Error& error) {
    bar.finish();
    if (error.code() == Code::kCancelled && stop_signal != 0) {
      fmt::print(stderr, "awq: {}\n", error.what());
      return 128 + stop_signal;
    }
    return fail_with(1, error.what());
  } catch (const std::bad_alloc&) {
    bar.finish();
    return fail_with(1, "out of memory");
  } catch (const std::filesystem::filesystem_error& error) {
    bar.finish();
    return fail_with(1, fmt::format("{}: {}", error.path1().string(), error.code().message()));
  } catch (const std::exception& error) {
    bar.finish();
    return fail_with(1, fmt::format("unexpected: {} (please report this)", error.what()));
  }
}

int main(int argc, char** argv) {
  Context context;
  CLI::App app("Quantize language models with AWQ, prove how good the result is, and run it.", "awq");
  app.formatter(std::make_shared<HelpFormatter>());
  app.footer("awq quantize ./qwen2.5-0.5b -o qwen-awq\nawq generate ./qwen-awq -p \"The sea is\"");
  app.set_version_flag("--version", fmt::format("awq {}", kVersion), "print the version")->group(kEverywhere);
  add_common_options(app, context);
  add_commands(app, context);
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForVersion& version) {
    print_line(version.what());
    return 0;
  } catch (const CLI::CallForHelp&) {
    const auto chosen = app.get_subcommands();
    fmt::print("{}", chosen.empty() ? app.help() : chosen.back()->help());
    return 0;
  } catch (const CLI::ParseError& error) {
    return fail_with(2, explain(app, error));
  }
  if (!context.run) return fail_with(2, "no command given; awq --help lists them");
  catch_signals();
  return run(context);
}

}  // namespace
}  // namespace awq::cli

int main(int argc, char** argv) { return awq::cli::main(argc, argv); }
