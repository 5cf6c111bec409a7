// Log-likelihoods of continuations: what multiple-choice tasks are scored by. The model reads each distinct input once;
// inputs that begin alike share the key/value pages of their common beginning, so that the examples in front of many
// questions, and a question in front of its choices, are read once.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "model/model.h"

namespace awq {

struct LikelihoodRequest {
  std::vector<int32_t> context, continuation;  // neither empty; token ids
};

struct Likelihood {
  double logprob = 0;   // natural logarithm, sum over the continuation's tokens
  bool greedy = false;  // each of them was the most likely one
};

class LikelihoodScorer {
 public:
  // batch_tokens: of one forward.
  explicit LikelihoodScorer(const Model& model, int64_t batch_tokens = 1024);

  // In the order of the requests. What is longer than the model's context loses its beginning, as in
  // lm-evaluation-harness. kBadFile: a logit that is not finite; kBadArgument: a continuation longer than the context.
  std::vector<Likelihood> score(std::span<const LikelihoodRequest> requests);

  int64_t tokens_asked() const { return asked_; }  // of all requests' inputs, since construction
  int64_t tokens_run() const { return run_; }      // that went through the model

 private:
  // One distinct input and who asks for it.
  struct Input {
    std::vector<int32_t> tokens;
    std::vector<size_t> requests;
    int64_t first_row = 0;  // the earliest row whose logits are wanted
    std::vector<int32_t> pages;
  };
  struct Piece {  // consecutive tokens of one input in a forward
    size_t input;
    int64_t from, tokens;
  };

  std::vector<Input> distinct(std::span<const LikelihoodRequest> requests) const;
  void reserve(const std::vector<Input>& inputs);
  int32_t take_page();
  void drop_pages(Input& input);
  void flush(std::vector<Input>& inputs, std::span<const LikelihoodRequest> requests, std::vector<Likelihood>& out);
  void read_logits(const Input& input, const Piece& piece, const float* hidden, std::span<const LikelihoodRequest> requests,
                   std::vector<Likelihood>& out);

  const Model& model_;
  const int64_t batch_tokens_;
  std::unique_ptr<KvCache> cache_;
  Input last_;  // of the call before, for what the next one shares with it
  std::vector<int32_t> free_;
  std::vector<int32_t> users_;  // of each page
  std::vector<Piece> batch_;
  int64_t batched_ = 0;  // tokens in batch_
  Scratch scratch_;
  std::vector<float> hidden_, logits_;
  int64_t asked_ = 0, run_ = 0;
};

}  // namespace awq
