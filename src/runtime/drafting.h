// Guesses of a sequence's next tokens, which the model then checks all in one step (speculative decoding, Leviathan, Kalman
// and Matias 2023). A token is drawn from the model's own logits in any case; a guess that equals it saves the next step, and a
// wrong one costs only its row in this one. So the text, greedy or sampled, is what it would be without guesses.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "model/model.h"

namespace awq {

struct Sequence;

// Guesses for one sequence in one step: with the token before them so many rows that every precision's products read the weights
// once and sum as for one row (kernels/cpu/linear.cpp).
inline constexpr int64_t kMostDrafts = 7;
// Of a draft model, unless the user says otherwise.
inline constexpr int64_t kModelDrafts = 4;

// Guesses from the text itself: what followed the last earlier occurrence of its last three tokens, or else two (prompt look-up
// decoding, Saxena 2023). Good at quotations, code and edited text.
class PromptLookup {
 public:
  // tokens: those so far, the earlier calls' with more behind them. Sets `out` to at most n guesses.
  void guess(std::span<const int32_t> tokens, int64_t n, std::vector<int32_t>& out);

 private:
  static constexpr size_t kLongest = 3, kShortest = 2;
  static uint64_t key(const int32_t* tokens, size_t n);
  std::unordered_map<uint64_t, int64_t> after_;  // an n-gram's hash -> where what followed it last begins
  size_t indexed_ = 0;                           // n-grams that end before this token are in after_
};

// How many guesses are worth it for one sequence: twice as many after all were right, else one more than were right, and a pause
// that doubles after none was.
class DraftLength {
 public:
  int64_t next(int64_t most) const { return pause_ > 0 ? 0 : std::min(most, length_); }
  // After a step of the sequence: of `guessed` (0: none were made) so many were right.
  void learn(int64_t guessed, int64_t right);

 private:
  int64_t length_ = 4, pause_ = 0, misses_ = 0;
};

// Guesses greedily with a smaller model of the same tokens. Its keys and values lie in the pages of the sequences they belong to.
class DraftModel {
 public:
  // pages: as many as the engine's own cache has; max_tokens: of one forward.
  DraftModel(std::shared_ptr<const Model> model, int64_t pages, DType dtype, int64_t max_tokens);
  struct Wanted {
    Sequence* sequence;
    int64_t guesses;  // its pages cover them
  };
  // Fills each sequence's draft; with nothing where the model does not know a token or its context ends.
  void guess(std::span<const Wanted> wanted);

 private:
  void run(std::span<Sequence* const> sequences, std::vector<int32_t>* last);
  bool knows(const Sequence& sequence, int64_t guesses) const;

  std::shared_ptr<const Model> model_;
  KvCache cache_;
  int64_t max_tokens_;
  Scratch scratch_;
  States states_;
  std::vector<RowDraw> asked_;
  DrawnRows answers_;
};

}  // namespace awq
