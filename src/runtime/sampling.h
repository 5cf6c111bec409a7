// How the next token is drawn from logits. The order of the steps: biases, repetition penalty, presence and
// frequency penalties (as OpenAI's API defines them), then transformers' temperature, top-k, top-p, min-p.
// Equal logits are ordered by token id, lowest first, so that a result never depends on how the candidates
// were sorted.
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "model/draw.h"

namespace awq {

struct SamplingParams {
  float temperature = 0;         // 0: greedy, the largest logit after biases and penalties
  int32_t top_k = 0;             // the k largest logits; 0: all
  float top_p = 1;               // the fewest largest probabilities whose sum reaches top_p; 1: all
  float min_p = 0;               // probabilities of at least min_p times the largest; 0: all
  float repetition_penalty = 1;  // positive logits of tokens seen are divided by it, negative ones multiplied
  float presence_penalty = 0;    // subtracted from the logits of tokens that were generated, from -2 to 2
  float frequency_penalty = 0;   // the same, times how often; from -2 to 2
  std::vector<std::pair<int32_t, float>> logit_bias = {};  // token id, added to its logit; from -100 to 100
  uint64_t seed = 0;
};
// kBadArgument names the field, what it may be and what it is.
void check_sampling(const SamplingParams& params);

// The finaliser of SplitMix64 (Steele, Lea and Flood 2014): a bijection whose output bits all depend on all
// input bits.
uint64_t mix(uint64_t x);
// Uniform in [0, 1), a pure function of its arguments: a draw depends on the seed and its number alone, never
// on what else runs beside it.
double uniform_at(uint64_t seed, uint64_t counter);

// Draws the tokens of one sequence.
class Sampler {
 public:
  // kBadArgument also for a logit_bias outside the vocabulary.
  Sampler(const SamplingParams& params, int64_t vocab);

  // The repetition penalty counts both as seen, the other two only what was generated.
  void accept_prompt(std::span<const int32_t> ids);
  void accept(int32_t id);
  // The next token; logits [vocab] are overwritten. Does not accept it. kBadFile when a logit is NaN or none
  // is finite (-infinity excludes a token).
  int32_t draw(std::span<float> logits);

  // What draw() would do, for whoever has the logits: of the draw that comes `ahead` draws after the next one, where guesses of the
  // tokens between are checked. Nothing where only draw() can: penalties count those tokens first, or a bias comes twice. Lists
  // are the sampler's, until it is called again.
  std::optional<RowDraw> plan(int64_t ahead = 0);
  // A draw that was planned has been made.
  void count_draw() { draws_ += params_.temperature > 0 ? 1 : 0; }

 private:
  void see(int32_t id);
  void penalise(std::span<float> logits) const;
  float lowered_by(int32_t times) const;
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
  bool bias_repeats_ = false;                       // an id comes twice in logit_bias
  std::vector<std::pair<int32_t, float>> lowered_;  // plan(): ids of generated_, and by how much
  std::vector<uint8_t> is_seen_;                    // [vocab], only with a penalty
  std::vector<int32_t> seen_;                       // distinct, in order of appearance
  std::unordered_map<int32_t, int32_t> generated_;  // how often, only with a penalty
  std::vector<Candidate> candidates_;
  std::vector<double> weights_;  // exp(logit - largest) of each candidate
};

}  // namespace awq
