// awq bench-serve: how a server holds up under load, the same way for any that speaks OpenAI's protocol.
#include <fmt/core.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/system.h"
#include "checkpoint/manifest.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/serve_load.h"
#include "cli/text_layout.h"
#include "report/html.h"
#include "text/text_source.h"

namespace awq::cli {
namespace {

using Json = nlohmann::ordered_json;

struct Options {
  std::string url, model, data = "builtin", html;
  std::vector<int64_t> clients;
  std::vector<double> rates;
  int64_t requests = 0, prompt_characters = 400, max_tokens = 128;
  double temperature = 0, timeout = 600;
  bool chat = false, stop_at_end = false;
  uint64_t seed = 1;
};

constexpr int64_t kClients[] = {1, 4, 8, 16};

// Pieces of the text of about equal length, cut at code points.
std::vector<std::string> prompts_of(const Options& o) {
  const TextSet text = load_text(o.data);
  std::string all;
  for (const std::string& sample : text.samples) all += sample + "\n";
  std::vector<std::string> out;
  const auto length = static_cast<size_t>(o.prompt_characters);
  for (size_t at = 0; at < all.size() && out.size() < 4096;) {
    size_t end = std::min(all.size(), at + length);
    while (end < all.size() && (static_cast<unsigned char>(all[end]) & 0xC0) == 0x80) ++end;
    if (end - at == length || out.empty()) out.push_back(all.substr(at, end - at));
    at = end;
  }
  return out;
}

std::vector<Level> levels_of(const Options& o) {
  std::vector<Level> out;
  for (const double rate : o.rates) out.push_back({0, rate, o.requests > 0 ? o.requests : std::max<int64_t>(32, static_cast<int64_t>(30 * rate))});
  std::vector<int64_t> clients = o.clients;
  if (clients.empty() && out.empty()) clients.assign(std::begin(kClients), std::end(kClients));
  for (const int64_t n : clients) out.push_back({n, 0, o.requests > 0 ? o.requests : std::max<int64_t>(16, 4 * n)});
  return out;
}

std::string level_name(const Level& level) {
  return level.clients > 0 ? fmt::format("{} client{}", level.clients, level.clients == 1 ? "" : "s") : fmt::format("{:g} requests/s", level.rate);
}

std::string ms(double seconds) { return fmt::format("{:.0f}", 1000 * seconds); }

report::Table table_of(const std::vector<LevelResult>& results) {
  report::Table table{"Load on the server",
                      {{"load"},
                       {"answers", true},
                       {"failed", true},
                       {"tokens/s", true},
                       {"first token p50", true},
                       {"p95", true},
                       {"p99", true},
                       {"between p50", true},
                       {"p95", true},
                       {"p99", true},
                       {"answer p50", true},
                       {"p99", true}},
                      {}};
  for (const LevelResult& r : results) {
    const LevelSummary s = summarize(r);
    table.rows.push_back({level_name(r.level), std::to_string(s.done), std::to_string(s.failed), fmt::format("{:.1f}", s.tokens_per_second), ms(s.first_token.p50),
                          ms(s.first_token.p95), ms(s.first_token.p99), ms(s.between.p50), ms(s.between.p95), ms(s.between.p99), ms(s.whole.p50), ms(s.whole.p99)});
  }
  return table;
}

Json quantiles_json(const Quantiles& q) {
  return {{"mean", 1000 * q.mean}, {"p50", 1000 * q.p50}, {"p95", 1000 * q.p95}, {"p99", 1000 * q.p99}};
}

Json json_of(const Options& o, const std::vector<LevelResult>& results) {
  Json levels = Json::array();
  for (const LevelResult& r : results) {
    const LevelSummary s = summarize(r);
    levels.push_back({{"clients", r.level.clients > 0 ? Json(r.level.clients) : Json(nullptr)},
                      {"rate", r.level.clients > 0 ? Json(nullptr) : Json(r.level.rate)},
                      {"requests", r.level.requests},
                      {"done", s.done},
                      {"failed", s.failed},
                      {"first_error", s.first_error.empty() ? Json(nullptr) : Json(s.first_error)},
                      {"seconds", r.seconds},
                      {"prompt_tokens", s.prompt_tokens},
                      {"tokens", s.tokens},
                      {"tokens_per_s", s.tokens_per_second},
                      {"requests_per_s", s.requests_per_second},
                      {"first_token_ms", quantiles_json(s.first_token)},
                      {"between_ms", quantiles_json(s.between)},
                      {"answer_ms", quantiles_json(s.whole)}});
  }
  return {{"schema", "awq.bench-serve/1"}, {"url", o.url}, {"model", o.model}, {"max_tokens", o.max_tokens}, {"levels", std::move(levels)}};
}

std::string command_of(const Options& o) {
  std::vector<std::string> argv = {"awq", "bench-serve", o.url, "--model", o.model, "--max-tokens", std::to_string(o.max_tokens), "--data", o.data};
  for (const int64_t n : o.clients) argv.insert(argv.end(), {"--clients", std::to_string(n)});
  for (const double r : o.rates) argv.insert(argv.end(), {"--rate", fmt::format("{:g}", r)});
  if (o.requests > 0) argv.insert(argv.end(), {"--requests", std::to_string(o.requests)});
  return public_command(argv);
}

std::string page_of(const Options& o, const std::vector<LevelResult>& results) {
  report::Page page(o.model + " under load");
  page.paragraph(fmt::format("Streamed answers of {} tokens{}. The first token counts from when a request was to be sent, so that waiting is part of it.",
                             o.max_tokens, o.stop_at_end ? " at most" : ""))
      .code(command_of(o))
      .table(table_of(results));
  const bool open = results.front().level.clients == 0;
  const auto series = [&](const char* name, const auto& value) {
    report::LineChart::Series s{name, {}};
    for (const LevelResult& r : results)
      if ((r.level.clients == 0) == open) s.points.push_back({open ? r.level.rate : static_cast<double>(r.level.clients), value(summarize(r))});
    return s;
  };
  const char* x = open ? "requests/s" : "clients";
  page.line_chart({"Tokens per second", "Tokens of all answers together.", x, "tokens/s", false, {series("tokens/s", [](const LevelSummary& s) { return s.tokens_per_second; })}});
  page.line_chart({"Time to the first token", "Half, 95 % and 99 % of the requests waited no longer.", x, "ms", true,
                   {series("p50", [](const LevelSummary& s) { return 1000 * s.first_token.p50; }), series("p95", [](const LevelSummary& s) { return 1000 * s.first_token.p95; }),
                    series("p99", [](const LevelSummary& s) { return 1000 * s.first_token.p99; })}});
  page.line_chart({"Time between tokens", "Between pieces of text of one answer.", x, "ms", true,
                   {series("p50", [](const LevelSummary& s) { return 1000 * s.between.p50; }), series("p95", [](const LevelSummary& s) { return 1000 * s.between.p95; }),
                    series("p99", [](const LevelSummary& s) { return 1000 * s.between.p99; })}});
  return page.html();
}

int run(const Context& context, Options o) {
  while (o.url.ends_with('/')) o.url.pop_back();
  if (!o.url.ends_with("/v1")) o.url += "/v1";
  LoadOptions load;
  load.url = o.url;
  if (const char* key = std::getenv("AWQ_API_KEY"); key != nullptr) load.key = key;
  load.model = o.model = o.model.empty() ? first_model(load) : o.model;
  load.chat = o.chat;
  load.max_tokens = o.max_tokens;
  load.ignore_eos = !o.stop_at_end;
  load.temperature = o.temperature;
  load.timeout_seconds = o.timeout;
  load.prompts = prompts_of(o);
  std::vector<LevelResult> results;
  std::vector<Level> levels = levels_of(o);
  load.seed = o.seed;
  // A first answer that nobody counts, and that tells a wrong address or model before the load begins.
  if (const LevelSummary first = summarize(run_level(load, {1, 0, 1}, {})); first.done == 0)
    fail(Code::kIo, "{}: the first request was not answered: {}", o.url, first.first_error);
  for (size_t i = 0; i < levels.size(); ++i) {
    const Level& level = levels[i];
    load.seed = o.seed + 1000 * (i + 1);
    results.push_back(run_level(load, level, [&](int64_t done) {
      if (context.report) context.report({level_name(level), static_cast<double>(done), static_cast<double>(level.requests), "answers"});
    }));
  }
  if (!o.html.empty()) write_file_atomic(o.html, page_of(o, results));
  std::string error;
  for (const LevelResult& r : results)
    if (error.empty()) error = summarize(r).first_error;
  if (context.json) {
    print_json(json_of(o, results));
  } else {
    print_line(text_table(table_of(results)));
    print_line(fmt::format("{} at {}; times in milliseconds{}", o.model, o.url, error.empty() ? "" : "; first failure: " + error));
    if (!o.html.empty()) print_line("wrote  " + o.html);
  }
  return 0;
}

}  // namespace

void add_bench_serve(CLI::App& app, Context& context) {
  auto o = std::make_shared<Options>();
  auto& command = add_command(app, context,
                              {"bench-serve", "Put load on an OpenAI-compatible server",
                               "awq bench-serve http://localhost:8000 --clients 1,8,64\n"
                               "awq bench-serve http://localhost:8000 --rate 2,4,8 --html load.html"},
                              [&context, o] { return run(context, *o); });
  command.add_option("url", o->url, "the server; its key, if it asks for one, from AWQ_API_KEY")->required()->type_name("URL");
  command.add_option("--model", o->model, "a model there (default: the first)")->type_name("NAME");
  command.add_option("--clients", o->clients, "closed loops: so many requests at a time (default 1,4,8,16)")
      ->delimiter(',')
      ->check(CLI::Range(int64_t{1}, int64_t{4096}))
      ->type_name("LIST");
  command.add_option("--rate", o->rates, "open loops: requests a second, arriving at random times")
      ->delimiter(',')
      ->check(CLI::Range(0.001, 1e5))
      ->type_name("LIST");
  command.add_option("--requests", o->requests, "of each level (default: 4 for each client, at least 16; 30 seconds of a rate)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30))
      ->type_name("N");
  command.add_option("--max-tokens", o->max_tokens, "tokens of an answer")->check(CLI::Range(1, 1 << 20))->capture_default_str()->type_name("N");
  command.add_option("--prompt-characters", o->prompt_characters, "length of a prompt")->check(CLI::Range(1, 1 << 24))->capture_default_str()->type_name("N");
  command.add_option("--data", o->data, "where prompts come from: builtin or a text file")->type_name("TEXT");
  command.add_flag("--chat", o->chat, "ask for chat completions");
  command.add_flag("--stop-at-end", o->stop_at_end, "let answers end by themselves; else servers are asked to ignore the end token");
  command.add_option("--temperature", o->temperature, "of sampling")->check(CLI::Range(0.0, 2.0))->capture_default_str()->type_name("X");
  command.add_option("--timeout", o->timeout, "seconds for one answer")->check(CLI::Range(0.1, 1e6))->capture_default_str()->type_name("S");
  command.add_option("--seed", o->seed, "of arrival times and of what makes prompts differ")->type_name("N");
  command.add_option("--html", o->html, "write a page that opens offline")->type_name("FILE");
}

}  // namespace awq::cli
