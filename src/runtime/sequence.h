// One answer to a request inside the engine.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "runtime/drafting.h"
#include "runtime/page_allocator.h"
#include "runtime/request.h"

namespace awq {

struct Sequence {
  // The answers to a request share what was asked.
  Sequence(int64_t number, std::shared_ptr<const Request> asked, int64_t limit, int64_t vocab,
           int32_t which = 0)
      : id(number),
        choice(which),
        request(std::move(asked)),
        max_tokens(limit),
        sampler(sampling_of(*request, which), vocab),
        tokens(request->prompt) {
    sampler.accept_prompt(tokens);
    if (request->make_constraint) constraint = request->make_constraint(which);
  }
  static SamplingParams sampling_of(const Request& request, int32_t choice) {
    SamplingParams params = request.sampling;
    if (choice > 0) params.seed = mix(params.seed + static_cast<uint64_t>(choice));
    return params;
  }

  int64_t id;
  int32_t choice;
  std::shared_ptr<const Request> request;
  int64_t max_tokens;  // within the context
  Sampler sampler;
  decltype(Request::adjust_logits) constraint;
  std::vector<int32_t> tokens;    // prompt and generated
  std::vector<int32_t> pages;     // cover at least `past` tokens
  int64_t published = 0;          // of these pages, known to others
  int64_t past = 0;               // tokens whose keys and values are in the cache
  std::vector<int32_t> draft;     // guesses of what follows tokens
  int64_t draft_wanted = 0;       // so many in the next step
  int64_t draft_past = 0;         // tokens and guesses a draft model has in its cache
  PromptLookup lookup;
  DraftLength draft_length;
  int64_t drafted = 0, drafts_right = 0;
  int64_t prompt_counted = 0;     // prompt tokens already in the statistics
  std::optional<int64_t> reused;  // of the first admission
  std::vector<TokenLogprobs> prompt_logprobs;
  // The other answers to the same prompt: they wait until this one has read it.
  std::vector<std::unique_ptr<Sequence>> siblings;
  std::optional<FinishReason> finished;
  std::string error;
  int32_t stop_id = -1;
  std::optional<TokenLogprobs> stop_logprobs;  // when asked for
  double added_at = 0, started_at = 0, first_token_at = 0, last_token_at = 0;  // seconds, now_seconds()

  int64_t size() const { return static_cast<int64_t>(tokens.size()); }
  int64_t prompt_size() const { return static_cast<int64_t>(request->prompt.size()); }
  int64_t pending() const { return size() - past; }  // tokens the model has not seen
  int64_t generated() const { return size() - prompt_size(); }
  // Its pages do not cover the longest answer.
  bool may_grow() const {
    return static_cast<int64_t>(pages.size()) < PageAllocator::pages_for(prompt_size() + max_tokens);
  }
  bool wants_prompt_logprobs() const {
    return choice == 0 && request->prompt_logprobs >= 0 &&
           static_cast<int64_t>(prompt_logprobs.size()) + 1 < prompt_size();
  }
};

}  // namespace awq
