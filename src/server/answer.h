// From the engine's tokens to OpenAI's answers: text with stop strings, log-probabilities, usage, as one
// object or as a stream of events.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "server/http_server.h"
#include "server/openai_request.h"
#include "server/service.h"
#include "text/stop_strings.h"

namespace awq::server {

// One HTTP request for completions. Lives as long as the engine or the connection refers to it; the engine's
// callbacks come on one thread.
class Answer : public std::enable_shared_from_this<Answer> {
 public:
  Answer(Service& service, CompletionRequest request, std::shared_ptr<HttpReply> reply);
  // Encodes the prompts and submits them; throws ApiError before anything has been sent.
  void start(std::vector<std::vector<int32_t>> prompts);

 private:
  // One of the answers: of prompt i and choice c the number i * n + c.
  struct Choice {
    // starts_text: the answer is a text of its own, as in a chat, not the end of a prompt's.
    Choice(std::shared_ptr<const Tokenizer> tokenizer, std::vector<std::string> stop_strings,
           bool starts_text)
        : detokenizer(std::move(tokenizer), /*skip_special_tokens=*/true, starts_text),
          stops(std::move(stop_strings)) {}
    Detokenizer detokenizer;
    StopStrings stops;
    std::string text;        // all of it, but for what was sent when streaming
    size_t text_length = 0;  // of what was made certain, in bytes, with the prompt when it is echoed
    std::vector<TokenLogprobs> logprobs;  // not sent yet
    bool is_first_unknown = false;        // the first of them is the prompt's first token, which has none
    std::vector<size_t> offsets;          // where their texts begin
    std::optional<FinishEvent> finish;
    double last_token_at = 0;
  };

  Request engine_request(size_t prompt, std::vector<int32_t> tokens);
  bool on_token(size_t index, const TokenEvent& event);
  void on_finish(size_t index, const FinishEvent& event);
  void add_prompt(size_t index, const std::vector<int32_t>& tokens, std::span<const TokenLogprobs> scores);
  void add_logprobs(Choice& choice, const TokenLogprobs& scores);

  void begin_stream();
  void send_piece(size_t index, const std::string& piece, const char* finish);
  void finish_all();
  void fail(const ApiError& error);
  void gone();

  nlohmann::ordered_json frame() const;  // id, object, created, model
  nlohmann::ordered_json choice_json(size_t index, const std::string& text, const char* finish, bool delta);
  nlohmann::ordered_json logprobs_json(Choice& choice) const;
  nlohmann::ordered_json usage() const;
  const char* finish_reason(const Choice& choice) const;

  Service& service_;
  CompletionRequest request_;
  std::shared_ptr<HttpReply> reply_;
  std::string id_;
  int64_t created_;
  double arrived_at_;
  std::vector<std::vector<int32_t>> prompts_;
  std::vector<Choice> choices_;
  size_t unfinished_ = 0;
  bool has_token_ = false, has_failed_ = false;
  std::atomic<bool> gone_ = false;
  std::mutex ids_mutex_;
  std::vector<int64_t> ids_;  // of the engine's requests
};

}  // namespace awq::server
