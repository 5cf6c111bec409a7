// What a caller asks of the engine, and what it hears back.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "runtime/logprobs.h"
#include "runtime/sampling.h"

namespace awq {

inline constexpr int32_t kMaxChoices = 128;

enum class FinishReason : uint8_t { kStop, kLength, kCancelled, kDeadline, kError };
const char* finish_name(FinishReason reason);  // "stop", "length", "cancelled", "deadline", "error"

struct TokenEvent {
  int64_t request = 0;
  int32_t token = 0;
  int64_t index = 0;                        // 0 for the first generated token
  int32_t choice = 0;                       // which of the request's n answers
  const TokenLogprobs* logprobs = nullptr;  // when asked for; valid during the call
};

struct FinishEvent {
  int64_t request = 0;
  FinishReason reason = FinishReason::kStop;
  int32_t stop_id = -1;        // the id that ended it; -1: none did
  const TokenLogprobs* stop_logprobs = nullptr;  // its, when asked for; valid during the call
  int64_t prompt_tokens = 0;   // all of the prompt
  int64_t tokens = 0;          // handed to on_token
  double waiting_seconds = 0;  // from add() until its first step began
  double prefill_seconds = 0;  // until the first token was drawn
  double decode_seconds = 0;   // from the first token to the last
  int32_t choice = 0;
  int64_t reused_tokens = 0;  // of the prompt, found in the cache when it was first admitted
  int64_t drafted = 0, drafts_right = 0;  // tokens guessed, and how many of them were drawn
  std::string error = {};     // kError: what went wrong, one line
};

struct Request {
  std::vector<int32_t> prompt;
  SamplingParams sampling;
  int64_t max_tokens = 128;  // generated tokens; the model's context ends a sequence earlier
  // Both end the sequence and are not handed to on_token: these, and EngineOptions::end_ids unless
  // ignore_eos.
  std::vector<int32_t> stop_ids;
  bool ignore_eos = false;

  // So many answers to one prompt, which is read once; answer i draws with a seed of its own.
  int32_t n = 1;
  // Log-probabilities with each token: -1 none, else the number of likeliest ones beside it, up to
  // kMaxTopLogprobs.
  int32_t logprobs = -1;
  // The same for the prompt's tokens, from the second on, each given those before it; handed to on_prompt.
  // With them max_tokens may be 0.
  int32_t prompt_logprobs = -1;
  // From add() on; then the request ends with kDeadline, wherever it is. 0: none.
  double deadline_seconds = 0;
  // Pages of the cache are shared only between requests of the same salt: tenants that must not learn from
  // response times what others asked get salts of their own.
  uint64_t cache_salt = 0;

  // All of these run on the thread that calls step(), outside its lock: they may call Engine::add and cancel.
  // They must not throw. Empty ones are left out. A finish comes for each of the n answers.
  std::function<bool(const TokenEvent&)> on_token;  // false: cancel this answer
  std::function<void(const FinishEvent&)> on_finish;
  // Once, before the first token: entry i is that of prompt token i + 1.
  std::function<void(int64_t request, std::span<const TokenLogprobs>)> on_prompt;
  // Before a token is drawn, after the tokens so far [prompt, generated]: may change logits [vocab];
  // -infinity excludes a token.
  std::function<void(std::span<const int32_t> tokens, std::span<float> logits)> adjust_logits;
  // Makes adjust_logits for each answer, where it has a state (a grammar); those may run on several threads
  // at once and may throw an Error, which ends their answer with kError.
  std::function<decltype(adjust_logits)(int32_t choice)> make_constraint;
};

}  // namespace awq
