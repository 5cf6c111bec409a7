// The commands, one per file cmd_<name>.cpp; main.cpp adds them in the order of --help.
#pragma once

namespace CLI {
class App;
}

namespace awq::cli {

struct Context;

void add_quantize(CLI::App& app, Context& context);
void add_eval(CLI::App& app, Context& context);
void add_generate(CLI::App& app, Context& context);
void add_chat(CLI::App& app, Context& context);
void add_serve(CLI::App& app, Context& context);
void add_bench(CLI::App& app, Context& context);
void add_bench_serve(CLI::App& app, Context& context);
void add_inspect(CLI::App& app, Context& context);
void add_verify(CLI::App& app, Context& context);
void add_compare(CLI::App& app, Context& context);
void add_diagnose(CLI::App& app, Context& context);
void add_gate(CLI::App& app, Context& context);
void add_report(CLI::App& app, Context& context);
void add_env(CLI::App& app, Context& context);

}  // namespace awq::cli
