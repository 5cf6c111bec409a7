// The bodies of OpenAI's completions and chat completions, checked and turned into what the engine is asked.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/request.h"
#include "server/errors.h"

namespace awq::server {

inline constexpr size_t kMaxJsonDepth = 64;
inline constexpr size_t kMaxStops = 16, kMaxStopBytes = 1024, kMaxLogitBias = 1024, kMaxTools = 128;
inline constexpr int64_t kMaxMessages = 10'000;

// How the text is to be read as JSON; `schema` only with kSchema.
enum class ResponseFormat : uint8_t { kText, kJson, kSchema };

struct CompletionRequest {
  bool chat = false;
  std::string model;  // as the client names it; empty: not named
  // Completions: prompts as text or as tokens, whichever is not empty. Chat: one, rendered by the template
  // from `context`.
  std::vector<std::string> texts;
  std::vector<std::vector<int32_t>> tokens;
  std::string context;  // JSON object of the template's variables

  SamplingParams sampling;
  int64_t max_tokens = -1;  // -1: as many as fit
  int32_t n = 1;
  int32_t logprobs = -1;  // likeliest ones beside each token; -1: none
  bool echo = false;
  bool ignore_eos = false;
  std::vector<int32_t> stop_ids;
  std::vector<std::string> stops;
  bool stream = false, include_usage = false;
  ResponseFormat format = ResponseFormat::kText;
  std::string schema;
  bool has_tools = false;
  bool must_call_tool = false;  // `schema` is that of the call then
};

// Throw ApiError with the field at fault.
CompletionRequest parse_completion(std::string_view body);
CompletionRequest parse_chat(std::string_view body);

struct TokenizeRequest {
  std::string model, text, context;  // the second for messages
  bool add_special_tokens = true;
  std::vector<int32_t> tokens;  // of /detokenize
};
TokenizeRequest parse_tokenize(std::string_view body);
TokenizeRequest parse_detokenize(std::string_view body);

}  // namespace awq::server
