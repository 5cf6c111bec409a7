// awq chat: a conversation with a model, on a terminal or by pipe.
#include <fmt/core.h>

#include <csignal>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/log.h"
#include "base/progress.h"
#include "base/system.h"
#include "checkpoint/chat_source.h"
#include "checkpoint/hub_cache.h"
#include "checkpoint/tokenizer_source.h"
#include "cli/commands.h"
#include "cli/draft_options.h"
#include "cli/line_editor.h"
#include "cli/sampling_options.h"
#include "model/load_words.h"
#include "runtime/end_ids.h"
#include "runtime/engine.h"
#include "text/chat.h"
#include "text/detokenizer.h"

namespace awq::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kHelp =
    "/system TEXT  say how the model shall behave; without TEXT shows it\n"
    "/reset        begin a new conversation; the system prompt stays\n"
    "/save FILE    write the conversation as a JSON line, as --calib of quantize reads it\n"
    "/help         this list\n"
    "/exit         end, as Ctrl-D does\n"
    "Enter sends; Alt-Enter or a backslash before Enter begins a new line. Ctrl-C stops an answer.";

struct Options {
  std::string model, system, precision = "fast", pack_cache;
  int head_bits = 0;
  bool invariant = false;
  int64_t max_tokens = 1024, context = 8192;
  DraftOptions draft;
  SamplingParams sampling;
};

volatile std::sig_atomic_t interrupted = 0;
extern "C" void on_interrupt(int) { interrupted = 1; }

// While a chat runs, Ctrl-C stops the answer and not the program.
class CatchInterrupt {
 public:
  CatchInterrupt() {
    struct sigaction action {};
    action.sa_handler = on_interrupt;
    sigemptyset(&action.sa_mask);
    action.sa_flags = SA_RESTART;
    ::sigaction(SIGINT, &action, &before_);
  }
  ~CatchInterrupt() { ::sigaction(SIGINT, &before_, nullptr); }
  CatchInterrupt(const CatchInterrupt&) = delete;
  CatchInterrupt& operator=(const CatchInterrupt&) = delete;

 private:
  struct sigaction before_ {};
};

std::string rate(int64_t tokens, double seconds) {
  return seconds > 0 && tokens > 0 ? fmt::format("{:.1f} tokens/s", static_cast<double>(tokens) / seconds)
                                   : "-";
}

class Chat {
 public:
  Chat(const Options& options, const Context& context)
      : options_(options), context_(context), checkpoint_(Checkpoint::open(resolve_model(options.model))) {
    check_sampling(options.sampling);
    renderer_.emplace(chat_source(*checkpoint_));
    tokenizer_ = load_tokenizer(*checkpoint_);
    LoadOptions load{precision_named(options.precision), context.report};
    load.head_bits = options.head_bits;
    load.invariant = options.invariant;
    load.pack_cache = options.pack_cache;
    load.device = model_device(context);
    const auto model = Model::load(*checkpoint_, load);
    EngineOptions engine;
    engine.end_ids = end_ids(*checkpoint_);
    if (const auto id = renderer_->turn_end(*tokenizer_)) engine.end_ids.push_back(*id);
    engine.max_sequences = 1;
    engine.kv_pages = PageAllocator::pages_for(std::min(options.context, model->config().max_position));
    apply_draft_options(options.draft, load, *tokenizer_, engine);
    engine_ = std::make_unique<Engine>(model, engine);
    context.end_report();
    system_ = options.system;
  }

  int run() {
    const CatchInterrupt catcher;
    if (editor_.is_terminal() && !context_.json)
      print_line(fmt::format("{}; /help lists what can be typed.", options_.model));
    while (!ended_) {
      check_cancelled();  // SIGTERM
      const auto message = editor_.read(">>> ");
      if (!message) break;
      if (message->find_first_not_of(" \t\n") == std::string::npos) continue;
      if (message->starts_with('/'))
        command(*message);
      else
        answer(*message);
    }
    if (context_.json)
      print_json({{"schema", "awq.chat/1"},
                  {"model", options_.model},
                  {"messages", conversation()},
                  {"prompt_tokens", prompt_tokens_},
                  {"tokens", tokens_},
                  {"reused_tokens", reused_tokens_},
                  {"seconds", seconds_}});
    return 0;
  }

 private:
  Json conversation() const {
    Json all = Json::array();
    if (!system_.empty()) all.push_back({{"role", "system"}, {"content", system_}});
    for (const Json& turn : turns_) all.push_back(turn);
    return all;
  }

  void say(std::string_view text) const { log(Level::kInfo, "{}", text); }

  void command(const std::string& line) {
    const size_t space = std::min(line.find(' '), line.size());
    const std::string name = line.substr(0, space);
    const size_t begin = line.find_first_not_of(' ', space);
    const std::string argument = begin == std::string::npos ? "" : line.substr(begin);
    if (name == "/exit" || name == "/quit") {
      ended_ = true;
    } else if (name == "/help") {
      say(kHelp);
    } else if (name == "/reset") {
      turns_ = Json::array();
      say("a new conversation");
    } else if (name == "/system") {
      if (argument.empty())
        say(system_.empty() ? "there is no system prompt" : system_);
      else
        system_ = argument;
    } else if (name == "/save") {
      save(argument);
    } else {
      log(Level::kWarning, "there is no {}; /help lists what there is", name);
    }
  }

  void save(const std::string& file) {
    if (file.empty()) {
      log(Level::kWarning, "/save needs the name of a file");
      return;
    }
    try {
      write_file_atomic(
          file,
          Json{{"messages", conversation()}}.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n");
      say(fmt::format("saved {} messages as {}", conversation().size(), file));
    } catch (const Error& error) {
      log(Level::kWarning, "{}", error.what());
    }
  }

  void answer(const std::string& message) {
    turns_.push_back({{"role", "user"}, {"content", message}});
    try {
      turns_.push_back({{"role", "assistant"}, {"content", generate()}});
    } catch (const Error& error) {
      if (error.code() == Code::kCancelled) throw;
      // A template or context that does not take this message: the conversation goes on without it.
      turns_.erase(turns_.size() - 1);
      log(Level::kWarning, "{}", error.what());
    }
  }

  std::string generate() {
    Conversation asked;
    asked.messages = conversation().dump(-1, ' ', false, Json::error_handler_t::replace);
    Request request;
    request.prompt = renderer_->encode(asked, *tokenizer_);
    const int64_t room = engine_->max_tokens() - static_cast<int64_t>(request.prompt.size());
    if (room < 1)
      fail(Code::kBadArgument,
           "the conversation has {} tokens, more than the {} of the context; /reset begins a new one",
           request.prompt.size(), engine_->max_tokens());
    request.max_tokens = std::min(options_.max_tokens, room);
    request.sampling = options_.sampling;
    std::string text;
    FinishEvent finish;
    bool running = true;
    Detokenizer detokenizer(tokenizer_, /*skip_special_tokens=*/true, /*at_start=*/true);
    const auto take = [&](const std::string& piece) {
      text += piece;
      if (context_.json) return;
      std::fwrite(piece.data(), 1, piece.size(), stdout);
      std::fflush(stdout);
    };
    request.on_token = [&](const TokenEvent& event) {
      take(detokenizer.push(event.token));
      return interrupted == 0;
    };
    request.on_finish = [&](const FinishEvent& event) {
      finish = event;
      running = false;
    };
    interrupted = 0;
    const int64_t id = engine_->add(std::move(request));
    while (running) {
      if (interrupted || cancel_requested()) engine_->cancel(id);
      engine_->step();
    }
    take(detokenizer.flush());
    if (!context_.json) print_line("");
    check_cancelled();
    if (finish.reason == FinishReason::kError) fail(Code::kInternal, "{}", finish.error);
    count(finish);
    return text;
  }

  void count(const FinishEvent& f) {
    prompt_tokens_ += f.prompt_tokens;
    reused_tokens_ += f.reused_tokens;
    tokens_ += f.tokens;
    seconds_ += f.prefill_seconds + f.decode_seconds;
    const int64_t read = f.prompt_tokens - f.reused_tokens;
    // The first token comes with the prompt's last step.
    say(fmt::format("[prompt {} tokens, {} of them kept, {}; answer {} tokens, {}{}]", f.prompt_tokens,
                    f.reused_tokens, rate(read, f.prefill_seconds), f.tokens,
                    rate(f.tokens + (f.stop_id >= 0) - 1, f.decode_seconds),
                    f.reason == FinishReason::kCancelled ? "; stopped"
                    : f.reason == FinishReason::kLength  ? "; cut at the limit"
                                                         : ""));
  }

  const Options& options_;
  const Context& context_;
  std::shared_ptr<const Checkpoint> checkpoint_;
  std::optional<ChatRenderer> renderer_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::unique_ptr<Engine> engine_;
  LineEditor editor_;
  std::string system_;
  Json turns_ = Json::array();
  bool ended_ = false;
  int64_t prompt_tokens_ = 0, reused_tokens_ = 0, tokens_ = 0;
  double seconds_ = 0;
};

}  // namespace

void add_chat(CLI::App& app, Context& context) {
  const auto options = std::make_shared<Options>();
  auto& command = add_command(app, context,
                              {"chat", "Talk with a model",
                               "awq chat ./qwen-awq --system \"Answer in one sentence.\"\n"
                               "awq chat model.gguf -q < questions.txt"},
                              [options, &context] { return Chat(*options, context).run(); });
  command.add_option("MODEL", options->model, "folder, .gguf file or org/name")->required();
  command.add_option("--system", options->system, "how the model shall behave")->type_name("TEXT");
  command.add_option("--max-tokens", options->max_tokens, "tokens of one answer at most")
      ->check(CLI::Range(int64_t{1}, int64_t{1000000000}))
      ->type_name("N")
      ->capture_default_str();
  command.add_option("--context", options->context, "tokens of the conversation at most")
      ->check(CLI::Range(int64_t{16}, int64_t{1000000000}))
      ->type_name("N")
      ->capture_default_str();
  add_precision_options(command, options->precision, options->head_bits);
  add_invariant_option(command, options->invariant);
  add_pack_cache_option(command, options->pack_cache);
  add_sampling_options(command, options->sampling);
  add_draft_options(command, options->draft);
}

}  // namespace awq::cli
