// Log-probabilities that callers ask to see: of the model's own distribution, before biases, penalties and
// temperature.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace awq {

struct TokenLogprob {
  int32_t token = 0;
  float logprob = 0;  // natural logarithm
};

struct TokenLogprobs {
  TokenLogprob token;             // the one that came
  std::vector<TokenLogprob> top;  // the likeliest, in this order, equal ones by id
};

inline constexpr int32_t kMaxTopLogprobs = 20;

// logits [vocab]; `token` is the one that came. An infinite logprob (a token the model excludes) is
// -infinity.
TokenLogprobs token_logprobs(std::span<const float> logits, int32_t token, int32_t top);

}  // namespace awq
