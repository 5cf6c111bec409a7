// A request inside the engine.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "runtime/request.h"

namespace awq {

struct Sequence {
  Sequence(int64_t number, Request asked, int64_t limit, int64_t vocab)
      : id(number),
        request(std::move(asked)),
        max_tokens(limit),
        sampler(request.sampling, vocab),
        tokens(request.prompt) {
    sampler.accept(tokens);
  }

  int64_t id;
  Request request;
  int64_t max_tokens;  // within the context
  Sampler sampler;
  std::vector<int32_t> tokens;  // prompt and generated
  std::vector<int32_t> pages;   // cover the prompt and max_tokens from admission on
  int64_t past = 0;             // tokens whose keys and values are in the cache
  std::optional<FinishReason> finished;
  int32_t stop_id = -1;
  double added_at = 0, started_at = 0, first_token_at = 0, last_token_at = 0;  // seconds, now_seconds()

  int64_t size() const { return static_cast<int64_t>(tokens.size()); }
  int64_t pending() const { return size() - past; }  // tokens the model has not seen
  int64_t generated() const { return size() - static_cast<int64_t>(request.prompt.size()); }
};

}  // namespace awq
