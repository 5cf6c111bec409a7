// Token sequences carried through a model block by block: the hidden states of calibration and held-out text.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "model/model.h"

namespace awq {

struct TokenSequences {
  std::vector<int32_t> ids;      // all sequences, one after the other
  std::vector<int64_t> lengths;  // tokens of each

  int64_t tokens() const { return static_cast<int64_t>(ids.size()); }
  int64_t count() const { return static_cast<int64_t>(lengths.size()); }
};

// Cuts a stream of tokens into sequences of seq_len (the last may be shorter; nothing is dropped) and keeps at most
// max_sequences of them, evenly spaced over the stream; 0 keeps all.
TokenSequences cut_sequences(std::span<const int32_t> stream, int64_t seq_len, int64_t max_sequences);

// The first sequences, whole, until there are at least so many tokens; all of them where there are fewer.
TokenSequences first_sequences(const TokenSequences& all, int64_t tokens);

// `count` of the sequences, evenly spaced; all where there are fewer.
TokenSequences evenly_spaced(const TokenSequences& all, int64_t count);

// The numbers 0 to n - 1 in an order of which every prefix is spread over all: 0, 4, 2, 6, 1, 5, 3, 7, ... (van der Corput 1935).
std::vector<int64_t> spread_order(int64_t n);

// The sequences of these numbers, in this order.
TokenSequences select_sequences(const TokenSequences& all, std::span<const int64_t> which);

// SHA-256 of ids and lengths.
std::string tokens_digest(const TokenSequences& sequences);

// The states [tokens, hidden] of some sequences between two blocks.
class HiddenStates {
 public:
  // Rows of the embedding as `config` scales them.
  HiddenStates(const TokenSequences& sequences, const ModelConfig& config, const Tensor& embedding);
  // States saved earlier: values() of the same sequences; kBadFile when there are more or fewer.
  HiddenStates(const TokenSequences& sequences, int64_t width, std::vector<float> states);
  // Those of some of its sequences; `sequences` are select_sequences(this->sequences(), which).
  HiddenStates select(const TokenSequences& sequences, std::span<const int64_t> which) const;
  // Runs every sequence through the block, or a half of it, in chunks of about kChunkTokens.
  void advance(const Block& block, Scratch& scratch, Observer* observer, BlockHalf half = BlockHalf::kBoth);
  const float* data() const { return states_.data(); }
  std::span<const float> values() const { return states_; }
  std::span<float> mutable_values() { return states_; }
  const TokenSequences& sequences() const { return *sequences_; }
  int64_t width() const { return width_; }
  float abs_max() const;

 private:
  const TokenSequences* sequences_;
  int64_t width_;
  std::vector<float> states_;
};

}  // namespace awq
