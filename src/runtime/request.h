// What a caller asks of the engine, and what it hears back.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "runtime/sampling.h"

namespace awq {

enum class FinishReason : uint8_t { kStop, kLength, kCancelled };
const char* finish_name(FinishReason reason);  // "stop", "length", "cancelled"

struct TokenEvent {
  int64_t request = 0;
  int32_t token = 0;
  int64_t index = 0;  // 0 for the first generated token
};

struct FinishEvent {
  int64_t request = 0;
  FinishReason reason = FinishReason::kStop;
  int32_t stop_id = -1;        // the id that ended it; -1: none did
  int64_t prompt_tokens = 0;   // all of the prompt
  int64_t tokens = 0;          // handed to on_token
  double waiting_seconds = 0;  // from add() until its first step began
  double prefill_seconds = 0;  // until the first token was drawn
  double decode_seconds = 0;   // from the first token to the last
};

struct Request {
  std::vector<int32_t> prompt;
  SamplingParams sampling;
  int64_t max_tokens = 128;  // generated tokens; the model's context ends a sequence earlier
  // Both end the sequence and are not handed to on_token: these, and EngineOptions::end_ids unless
  // ignore_eos.
  std::vector<int32_t> stop_ids;
  bool ignore_eos = false;

  // All three run on the thread that calls step(), outside its lock: they may call Engine::add and cancel.
  // They must not throw. Empty ones are left out.
  std::function<bool(const TokenEvent&)> on_token;  // false: cancel
  std::function<void(const FinishEvent&)> on_finish;
  // Before a token is drawn, after the tokens so far [prompt, generated]: may change logits [vocab];
  // -infinity excludes a token.
  std::function<void(std::span<const int32_t> tokens, std::span<float> logits)> adjust_logits;
};

}  // namespace awq
