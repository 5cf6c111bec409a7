// awq generate: continues a text, writing it as it comes.
#include <fmt/core.h>

#include <algorithm>
#include <cstdio>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/log.h"
#include "base/system.h"
#include "checkpoint/chat_source.h"
#include "checkpoint/hub_cache.h"
#include "checkpoint/tokenizer_source.h"
#include "cli/commands.h"
#include "cli/draft_options.h"
#include "cli/options.h"
#include "cli/sampling_options.h"
#include "model/load_words.h"
#include "runtime/end_ids.h"
#include "runtime/engine.h"
#include "text/chat.h"
#include "text/detokenizer.h"

namespace awq::cli {
namespace {

struct Options {
  std::string model, prompt, load_in, precision = "fast", kv_dtype = "float32", pack_cache;
  int head_bits = 0;
  std::string system;  // not empty: chat
  bool chat = false;
  int64_t max_tokens = 128;
  SamplingParams sampling;
  DraftOptions draft;
  bool ignore_eos = false, invariant = false;
};

struct Outcome {
  std::string text;
  FinishEvent finish;
};

std::string prompt_text(const std::string& prompt) {
  if (prompt != "-") return prompt;
  std::string text{std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()};
  if (text.ends_with('\n')) text.pop_back();  // the shell's, not the author's
  return text;
}

// Tokens per second of steps that took `seconds`; empty when none did.
std::optional<double> rate(int64_t tokens, double seconds) {
  if (tokens <= 0 || seconds <= 0) return std::nullopt;
  return static_cast<double>(tokens) / seconds;
}

// The first token comes out of the prompt's last step, so decoding is timed over the others and what ended
// it.
std::optional<double> prompt_rate(const FinishEvent& f) { return rate(f.prompt_tokens, f.prefill_seconds); }
std::optional<double> decode_rate(const FinishEvent& f) {
  return rate(f.tokens + (f.stop_id >= 0 ? 1 : 0) - 1, f.decode_seconds);
}

Outcome generate(const std::shared_ptr<const Model>& model, const std::shared_ptr<const Tokenizer>& tokenizer,
                 const EngineOptions& options, Request request,
                 const std::function<void(std::string_view)>& write) {
  Outcome outcome;
  Detokenizer detokenizer(tokenizer);
  const auto take = [&](const std::string& piece) {
    outcome.text += piece;
    write(piece);
  };
  request.on_token = [&](const TokenEvent& event) {
    take(detokenizer.push(event.token));
    return true;
  };
  request.on_finish = [&](const FinishEvent& event) { outcome.finish = event; };
  Engine engine(model, options);
  engine.add(std::move(request));
  engine.run_until_idle();
  take(detokenizer.flush());
  return outcome;
}

void print_outcome(const Options& options, const std::string& prompt, const Outcome& outcome) {
  const FinishEvent& f = outcome.finish;
  const auto number = [](const std::optional<double>& v) {
    return v ? nlohmann::ordered_json(*v) : nlohmann::ordered_json();
  };
  print_json({{"schema", "awq.generate/1"},
              {"model", options.model},
              {"prompt", prompt},
              {"text", outcome.text},
              {"prompt_tokens", f.prompt_tokens},
              {"tokens", f.tokens},
              {"prompt_tokens_per_s", number(prompt_rate(f))},
              {"tokens_per_s", number(decode_rate(f))},
              {"drafted", f.drafted},
              {"drafts_right", f.drafts_right},
              {"finish_reason", finish_name(f.reason)},
              {"seconds", f.prefill_seconds + f.decode_seconds}});
}

void log_speed(const FinishEvent& f) {
  const auto speed = [](const std::optional<double>& v) {
    return v ? fmt::format(" at {:.1f} tokens/s", *v) : "";
  };
  const std::string drafts = f.drafted > 0 ? fmt::format(", {} of {} guesses right", f.drafts_right, f.drafted) : "";
  log(Level::kInfo, "prompt {}{}, generated {}{}{}, {}", f.prompt_tokens, speed(prompt_rate(f)), f.tokens, speed(decode_rate(f)), drafts,
      f.reason == FinishReason::kStop ? "ended by the model" : "reached the limit");
}

// The prompt as the first turn of a conversation, in the model's template.
std::vector<int32_t> chat_tokens(const Options& options, const ChatRenderer& chat, const Tokenizer& tokenizer,
                                 std::string_view prompt) {
  auto messages = nlohmann::ordered_json::array();
  if (!options.system.empty()) messages.push_back({{"role", "system"}, {"content", options.system}});
  messages.push_back({{"role", "user"}, {"content", prompt}});
  Conversation conversation;
  conversation.messages = messages.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  return chat.encode(conversation, tokenizer);
}

Request make_request(const Options& options, const Checkpoint& checkpoint, const Tokenizer& tokenizer,
                     std::string_view prompt) {
  Request request;
  if (options.chat || !options.system.empty()) {
    const ChatRenderer chat(chat_source(checkpoint));
    request.prompt = chat_tokens(options, chat, tokenizer, prompt);
    const auto end = chat.turn_end(tokenizer);
    if (end && !options.ignore_eos) request.stop_ids.push_back(*end);
  } else {
    request.prompt = tokenizer.encode(prompt, true);
  }
  request.sampling = options.sampling;
  request.max_tokens = options.max_tokens;
  request.ignore_eos = options.ignore_eos;
  return request;
}

// A cache for this one request: the model's whole context may be more than the machine has.
EngineOptions engine_options(const Checkpoint& checkpoint, const ModelConfig& config,
                             const Request& request) {
  EngineOptions options;
  options.end_ids = end_ids(checkpoint);
  options.max_sequences = 1;
  const int64_t tokens = static_cast<int64_t>(request.prompt.size()) + request.max_tokens;
  options.kv_pages = PageAllocator::pages_for(std::min(tokens, config.max_position));
  return options;
}

// Text on standard output as it comes. Its line is ended even when generation is stopped, so that what
// follows on a terminal starts on its own.
class TextStream {
 public:
  ~TextStream() {
    if (begun_) write("\n");
  }
  void write(std::string_view piece) {
    begun_ = true;
    std::fwrite(piece.data(), 1, piece.size(), stdout);
    std::fflush(stdout);
  }

 private:
  bool begun_ = false;
};

int run(const Options& options, const Context& context) {
  check_sampling(options.sampling);
  const auto checkpoint = Checkpoint::open(resolve_model(options.model));
  const auto tokenizer = load_tokenizer(*checkpoint);
  const std::string prompt = prompt_text(options.prompt);
  Request request = make_request(options, *checkpoint, *tokenizer, prompt);
  LoadOptions load{precision_named(options.precision), context.report};
  load.head_bits = options.head_bits;
  load.invariant = options.invariant;
  load.pack_cache = options.pack_cache;
  load.device = model_device(context);
  load.load_in = load_in_named(options.load_in);
  const auto model = Model::load(*checkpoint, load);
  EngineOptions engine = engine_options(*checkpoint, model->config(), request);
  engine.kv_dtype = kv_dtype_named(options.kv_dtype);
  apply_draft_options(options.draft, load, *tokenizer, engine);
  context.end_report();

  Outcome outcome;
  {
    TextStream stream;
    outcome = generate(model, tokenizer, engine, std::move(request), [&](std::string_view piece) {
      if (!context.json) stream.write(piece);
    });
  }
  if (context.json) print_outcome(options, prompt, outcome);
  log_speed(outcome.finish);
  return 0;
}

}  // namespace

void add_generate(CLI::App& app, Context& context) {
  const auto options = std::make_shared<Options>();
  auto& command = add_command(app, context,
                              {"generate", "Continue a text with a model",
                               "awq generate ./qwen-awq -p \"The sea is\"\nawq generate model.gguf -p - "
                               "--temperature 0.8 --top-p 0.9 < letter.txt"},
                              [options, &context] { return run(*options, context); });
  command.add_option("MODEL", options->model, "folder, .gguf file or org/name")->required();
  add_load_in_option(command, options->load_in);
  command
      .add_option("-p,--prompt", options->prompt,
                  "the text to continue; - reads standard input, less a last newline")
      ->required()
      ->type_name("TEXT");
  command.add_flag("--chat", options->chat, "the text is a message: apply the model's chat template");
  command.add_option("--system", options->system, "a system prompt before it; means --chat")
      ->type_name("TEXT");
  command.add_option("--max-tokens", options->max_tokens, "tokens to generate at most")
      ->check(CLI::Range(int64_t{1}, int64_t{1000000000}))
      ->type_name("N")
      ->capture_default_str();
  command.add_flag("--ignore-eos", options->ignore_eos, "go on after the model's end of text");
  add_precision_options(command, options->precision, options->head_bits);
  add_invariant_option(command, options->invariant);
  add_pack_cache_option(command, options->pack_cache);
  add_kv_dtype_option(command, options->kv_dtype);
  add_sampling_options(command, options->sampling);
  add_draft_options(command, options->draft);
}

}  // namespace awq::cli
