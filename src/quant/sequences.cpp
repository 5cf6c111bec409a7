#include "quant/sequences.h"

#include <algorithm>
#include <cmath>

#include "base/sha256.h"
#include "base/thread_pool.h"

namespace awq {
namespace {
constexpr int64_t kChunkTokens = 2048;  // bounds the scratch of a forward pass
}

TokenSequences cut_sequences(std::span<const int32_t> stream, int64_t seq_len, int64_t max_sequences) {
  const int64_t total = static_cast<int64_t>(stream.size());
  const int64_t available = (total + seq_len - 1) / seq_len;
  const int64_t wanted = max_sequences > 0 ? std::min(available, max_sequences) : available;
  // Whole sequences only when there are more than enough of them.
  const int64_t whole = total / seq_len;
  const int64_t pool = wanted <= whole ? whole : available;
  const int64_t step = wanted > 0 ? pool / wanted : 1;
  TokenSequences out;
  for (int64_t i = 0; i < wanted; ++i) {
    const int64_t begin = i * step * seq_len, end = std::min(begin + seq_len, total);
    out.ids.insert(out.ids.end(), stream.begin() + begin, stream.begin() + end);
    out.lengths.push_back(end - begin);
  }
  return out;
}

TokenSequences first_sequences(const TokenSequences& all, int64_t tokens) {
  TokenSequences out;
  for (const int64_t length : all.lengths) {
    if (out.tokens() >= tokens) break;
    const auto begin = all.ids.begin() + out.tokens();
    out.ids.insert(out.ids.end(), begin, begin + length);
    out.lengths.push_back(length);
  }
  return out;
}

TokenSequences evenly_spaced(const TokenSequences& all, int64_t count) {
  TokenSequences out;
  const int64_t step = std::max<int64_t>(1, all.count() / std::max<int64_t>(count, 1));
  int64_t at = 0;
  for (int64_t i = 0; i < all.count(); ++i) {
    const int64_t length = all.lengths[static_cast<size_t>(i)];
    if (i % step == 0 && out.count() < count) {
      out.ids.insert(out.ids.end(), all.ids.begin() + at, all.ids.begin() + at + length);
      out.lengths.push_back(length);
    }
    at += length;
  }
  return out;
}

std::vector<int64_t> spread_order(int64_t n) {
  int bits = 0;
  while ((int64_t{1} << bits) < n) ++bits;
  std::vector<int64_t> order;
  for (int64_t i = 0; i < (int64_t{1} << bits); ++i) {
    int64_t reversed = 0;
    for (int b = 0; b < bits; ++b) reversed |= (i >> b & 1) << (bits - 1 - b);
    if (reversed < n) order.push_back(reversed);
  }
  return order;
}

namespace {
// Where each sequence begins, and where the last one ends.
std::vector<int64_t> begins(const TokenSequences& sequences) {
  std::vector<int64_t> begin = {0};
  for (const int64_t length : sequences.lengths) begin.push_back(begin.back() + length);
  return begin;
}
}  // namespace

TokenSequences select_sequences(const TokenSequences& all, std::span<const int64_t> which) {
  const std::vector<int64_t> begin = begins(all);
  TokenSequences out;
  for (const int64_t i : which) {
    const auto at = static_cast<size_t>(i);
    out.ids.insert(out.ids.end(), all.ids.begin() + begin[at], all.ids.begin() + begin[at + 1]);
    out.lengths.push_back(all.lengths[at]);
  }
  return out;
}

std::string tokens_digest(const TokenSequences& sequences) {
  Sha256 hash;
  hash.update(std::as_bytes(std::span(sequences.lengths)));
  hash.update(std::as_bytes(std::span(sequences.ids)));
  return hash.hex();
}

HiddenStates::HiddenStates(const TokenSequences& sequences, const ModelConfig& config, const Tensor& embedding)
    : sequences_(&sequences), width_(embedding.dim(1)), states_(static_cast<size_t>(sequences.tokens() * width_)) {
  embed(embedding, sequences.ids, states_.data());
  if (const float scale = embedding_scale(config, embedding.dtype()); scale != 1)
    for (float& x : states_) x *= scale;
}

HiddenStates::HiddenStates(const TokenSequences& sequences, int64_t width, std::vector<float> states)
    : sequences_(&sequences), width_(width), states_(std::move(states)) {
  const auto expected = static_cast<size_t>(sequences.tokens() * width);
  if (states_.size() != expected) fail(Code::kBadFile, "saved hidden states: expected {} values, got {}", expected, states_.size());
}

HiddenStates HiddenStates::select(const TokenSequences& sequences, std::span<const int64_t> which) const {
  const std::vector<int64_t> begin = begins(*sequences_);
  std::vector<float> states;
  states.reserve(static_cast<size_t>(sequences.tokens() * width_));
  for (const int64_t i : which) {
    const auto at = static_cast<size_t>(i);
    states.insert(states.end(), states_.begin() + begin[at] * width_, states_.begin() + begin[at + 1] * width_);
  }
  return {sequences, width_, std::move(states)};
}

void HiddenStates::advance(const Block& block, Scratch& scratch, Observer* observer, BlockHalf half) {
  const auto& lengths = sequences_->lengths;
  int64_t start = 0;
  for (size_t s = 0; s < lengths.size();) {
    check_cancelled();
    std::vector<SpanView> spans;
    std::vector<int32_t> positions;
    int64_t tokens = 0;
    for (; s < lengths.size() && (tokens == 0 || tokens + lengths[s] <= kChunkTokens); ++s) {
      spans.push_back({tokens, lengths[s], 0, nullptr});
      for (int64_t p = 0; p < lengths[s]; ++p) positions.push_back(static_cast<int32_t>(p));
      tokens += lengths[s];
    }
    const BatchView batch{std::span(sequences_->ids).subspan(static_cast<size_t>(start), static_cast<size_t>(tokens)), positions, spans};
    block.forward(states_.data() + start * width_, batch, nullptr, scratch, observer, half);
    start += tokens;
  }
}

float HiddenStates::abs_max() const {
  constexpr int64_t kPart = 1 << 20;
  const auto n = static_cast<int64_t>(states_.size());
  std::vector<float> largest(static_cast<size_t>((n + kPart - 1) / kPart), 0.0f);
  parallel_for(static_cast<int64_t>(largest.size()), [&](int64_t part) {
    float& most = largest[static_cast<size_t>(part)];
    for (int64_t i = part * kPart; i < std::min(n, (part + 1) * kPart); ++i) most = std::max(most, std::fabs(states_[static_cast<size_t>(i)]));
  });
  return largest.empty() ? 0 : *std::max_element(largest.begin(), largest.end());
}

}  // namespace awq
