// How the next token is drawn from logits. The order of the steps is transformers': repetition penalty,
// temperature, top-k, top-p, min-p. Equal logits are ordered by token id, lowest first, so that a result
// never depends on how the candidates were sorted.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace awq {

struct SamplingParams {
  float temperature = 0;         // 0: greedy, the largest logit after the repetition penalty
  int32_t top_k = 0;             // the k largest logits; 0: all
  float top_p = 1;               // the fewest largest probabilities whose sum reaches top_p; 1: all
  float min_p = 0;               // probabilities of at least min_p times the largest; 0: all
  float repetition_penalty = 1;  // positive logits of tokens seen are divided by it, negative ones multiplied
  uint64_t seed = 0;
};
// kBadArgument names the field, what it may be and what it is.
void check_sampling(const SamplingParams& params);

// Uniform in [0, 1), a pure function of its arguments: a draw depends on the seed and its number alone, never
// on what else runs beside it.
double uniform_at(uint64_t seed, uint64_t counter);

// Draws the tokens of one sequence.
class Sampler {
 public:
  Sampler(const SamplingParams& params, int64_t vocab);

  // Tokens that the repetition penalty counts as seen: the prompt's, and each token drawn.
  void accept(std::span<const int32_t> ids);
  // The next token; logits [vocab] are overwritten. Does not accept it. kBadFile when a logit is NaN or none
  // is finite (-infinity excludes a token).
  int32_t draw(std::span<float> logits);

 private:
  void penalise(std::span<float> logits) const;
  int32_t greedy(std::span<const float> logits) const;

  struct Candidate {
    float logit;
    int32_t id;
  };
  void keep_top_k();
  void keep_probable();
  int32_t pick();

  SamplingParams params_;
  uint64_t draws_ = 0;
  std::vector<uint8_t> is_seen_;  // [vocab], only with a penalty
  std::vector<int32_t> seen_;     // distinct, in order of appearance
  std::vector<Candidate> candidates_;
  std::vector<double> weights_;  // exp(logit - largest) of each candidate
};

}  // namespace awq
