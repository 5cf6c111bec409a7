// Load on an OpenAI-compatible server: streamed completions from many clients, and when their tokens came.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace awq::cli {

struct LoadOptions {
  std::string url, key, model;  // url: ".../v1"
  bool chat = false;            // /chat/completions instead of /completions
  int64_t max_tokens = 128;
  bool ignore_eos = true;       // vLLM's, llama.cpp's and our own way to get answers of equal length
  double temperature = 0, timeout_seconds = 600;
  std::vector<std::string> prompts;  // taken in turn; each gets a beginning of its own, so that no server can reuse another's work
  uint64_t seed = 0;
};

// One request, in seconds since the level began.
struct LoadedRequest {
  double planned = 0, sent = 0;  // planned: when an open loop wanted it; else as sent
  double first = -1, last = -1;  // when text came first and last; -1: never
  std::vector<double> gaps;      // between pieces of text
  int64_t tokens = 0, prompt_tokens = 0;  // as the server counts them; else pieces of text, and 0
  std::string error;             // empty: whole
};

struct Level {
  int64_t clients = 0;  // a closed loop: so many at a time; 0: open
  double rate = 0;      // an open loop: requests a second, arriving at random (Poisson)
  int64_t requests = 0;
};

struct LevelResult {
  Level level;
  double seconds = 0;
  std::vector<LoadedRequest> requests;
};

// The name of the first model at URL/models. kIo names the URL and what came.
std::string first_model(const LoadOptions& options);
// progress: requests done. Cancelling ends the level with an Error.
LevelResult run_level(const LoadOptions& options, const Level& level, const std::function<void(int64_t)>& progress);

struct Quantiles {
  double p50 = 0, p95 = 0, p99 = 0, mean = 0;
};
Quantiles quantiles(const std::vector<double>& values);  // zeros of nothing

struct LevelSummary {
  int64_t done = 0, failed = 0, tokens = 0, prompt_tokens = 0;
  double tokens_per_second = 0, requests_per_second = 0;
  Quantiles first_token, between, whole;  // seconds: from planned to the first text, between pieces, from planned to the end
  std::string first_error;
};
LevelSummary summarize(const LevelResult& result);

}  // namespace awq::cli
