#include "eval/likelihood.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <numeric>

#include "base/error.h"

namespace awq {
namespace {

constexpr int64_t kLogitFloats = int64_t{4} << 20;  // 16 MiB of logits at a time

int64_t pages_of(int64_t tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }

int64_t common_beginning(const std::vector<int32_t>& a, const std::vector<int32_t>& b) {
  return std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin();
}

}  // namespace

LikelihoodScorer::LikelihoodScorer(const Model& model, int64_t batch_tokens) : model_(model), batch_tokens_(batch_tokens) {}

std::vector<LikelihoodScorer::Input> LikelihoodScorer::distinct(std::span<const LikelihoodRequest> requests) const {
  const int64_t longest = model_.config().max_position;
  std::map<std::vector<int32_t>, Input> found;  // in lexicographic order: neighbours share the most
  for (size_t i = 0; i < requests.size(); ++i) {
    const LikelihoodRequest& r = requests[i];
    check_internal(!r.context.empty() && !r.continuation.empty(), "a likelihood request is empty");
    std::vector<int32_t> tokens = r.context;
    tokens.insert(tokens.end(), r.continuation.begin(), r.continuation.end());
    const auto answer = static_cast<int64_t>(r.continuation.size());
    if (longest > 0 && answer > longest)
      fail(Code::kBadArgument, "a continuation has {} tokens, the model's context {}", answer, longest);
    if (longest > 0 && static_cast<int64_t>(tokens.size()) > longest + 1) tokens.erase(tokens.begin(), tokens.end() - longest - 1);
    tokens.pop_back();
    const int64_t first = static_cast<int64_t>(tokens.size()) - answer;
    Input& input = found[tokens];
    input.first_row = input.requests.empty() ? first : std::min(input.first_row, first);
    input.requests.push_back(i);
  }
  std::vector<Input> inputs;
  for (auto& [tokens, input] : found) {
    input.tokens = tokens;
    inputs.push_back(std::move(input));
  }
  return inputs;
}

// Pages for the longest input twice (the one before, whose pages are still shared, and the one being read) and for one batch.
void LikelihoodScorer::reserve(const std::vector<Input>& inputs) {
  int64_t longest = 0;
  for (const Input& input : inputs) longest = std::max(longest, pages_of(static_cast<int64_t>(input.tokens.size())));
  const int64_t pages = 2 * longest + 2 * batch_tokens_ / kPageTokens + 64;
  if (cache_ && cache_->pages() >= pages) return;
  last_ = {};
  cache_ = std::make_unique<KvCache>(model_, pages, DType::kF32);
  free_.resize(static_cast<size_t>(cache_->pages()));
  std::iota(free_.rbegin(), free_.rend(), 0);
  users_.assign(free_.size(), 0);
}

int32_t LikelihoodScorer::take_page() {
  check_internal(!free_.empty(), "no cache page is free");
  const int32_t page = free_.back();
  free_.pop_back();
  users_[page] = 1;
  return page;
}

void LikelihoodScorer::drop_pages(Input& input) {
  for (const int32_t page : input.pages)
    if (--users_[page] == 0) free_.push_back(page);
  input.pages.clear();
}

std::vector<Likelihood> LikelihoodScorer::score(std::span<const LikelihoodRequest> requests) {
  std::vector<Likelihood> out(requests.size(), {0, true});
  for (const LikelihoodRequest& r : requests) asked_ += static_cast<int64_t>(r.context.size() + r.continuation.size()) - 1;
  if (requests.empty()) return out;
  std::vector<Input> inputs = distinct(requests);
  reserve(inputs);
  last_.requests.clear();
  inputs.insert(inputs.begin(), std::move(last_));
  const bool shares = !model_.config().rope.depends_on_length();  // else a key's rotation depends on whose it is
  const auto most_pieces = static_cast<size_t>(batch_tokens_ / kPageTokens);  // each may need a page it fills in part
  for (size_t i = 1; i < inputs.size(); ++i) {
    Input& input = inputs[i];
    const auto length = static_cast<int64_t>(input.tokens.size());
    int64_t at = 0;
    if (shares) {
      at = std::min(common_beginning(inputs[i - 1].tokens, input.tokens), input.first_row) / kPageTokens * kPageTokens;
      const auto& before = inputs[i - 1].pages;
      input.pages.assign(before.begin(), before.begin() + at / kPageTokens);
      for (const int32_t page : input.pages) ++users_[page];
    }
    while (at < length) {
      if (batched_ == batch_tokens_ || batch_.size() == most_pieces) {
        flush(inputs, requests, out);
        // Only the newest input's pages, and those it shares, are needed from here on.
        for (size_t old = i; old-- > 0;) {
          if (inputs[old].pages.empty() && old > 0) break;
          drop_pages(inputs[old]);
        }
      }
      const int64_t tokens = std::min(length - at, batch_tokens_ - batched_);
      while (static_cast<int64_t>(input.pages.size()) < pages_of(at + tokens)) input.pages.push_back(take_page());
      batch_.push_back({i, at, tokens});
      batched_ += tokens;
      at += tokens;
    }
  }
  flush(inputs, requests, out);
  for (size_t i = 0; i + 1 < inputs.size(); ++i) drop_pages(inputs[i]);
  last_ = std::move(inputs.back());
  return out;
}

void LikelihoodScorer::flush(std::vector<Input>& inputs, std::span<const LikelihoodRequest> requests, std::vector<Likelihood>& out) {
  if (batch_.empty()) return;
  check_cancelled();
  std::vector<int32_t> tokens, positions;
  std::vector<SpanView> spans;
  std::vector<int64_t> lengths;
  for (const Piece& p : batch_) {
    const Input& input = inputs[p.input];
    spans.push_back({static_cast<int64_t>(tokens.size()), p.tokens, p.from, input.pages.data()});
    lengths.push_back(static_cast<int64_t>(input.tokens.size()));
    tokens.insert(tokens.end(), input.tokens.begin() + p.from, input.tokens.begin() + p.from + p.tokens);
    for (int64_t t = 0; t < p.tokens; ++t) positions.push_back(static_cast<int32_t>(p.from + t));
  }
  model_.forward({tokens, positions, spans, lengths}, cache_.get(), scratch_, hidden_);
  run_ += batched_;
  for (size_t i = 0; i < batch_.size(); ++i)
    read_logits(inputs[batch_[i].input], batch_[i], hidden_.data() + spans[i].first * model_.config().hidden, requests, out);
  batch_.clear();
  batched_ = 0;
}

void LikelihoodScorer::read_logits(const Input& input, const Piece& piece, const float* hidden,
                                   std::span<const LikelihoodRequest> requests, std::vector<Likelihood>& out) {
  const int64_t vocab = model_.config().vocab, width = model_.config().hidden;
  const int64_t most = std::max<int64_t>(1, kLogitFloats / vocab), end = piece.from + piece.tokens;
  for (int64_t row = std::max(piece.from, input.first_row); row < end; row += most) {
    const int64_t rows = std::min(most, end - row);
    logits_.resize(static_cast<size_t>(rows * vocab));
    model_.logits(hidden + (row - piece.from) * width, rows, logits_.data());
    for (const size_t r : input.requests) {
      const std::vector<int32_t>& answer = requests[r].continuation;
      const int64_t first = static_cast<int64_t>(input.tokens.size()) - static_cast<int64_t>(answer.size()) + 1;  // row of answer[0], plus 1
      for (int64_t k = std::max<int64_t>(row, first - 1); k < row + rows; ++k) {
        const float* logits = logits_.data() + (k - row) * vocab;
        const int32_t target = answer[static_cast<size_t>(k - first + 1)];
        double logprob = 0;
        log_softmax_gather(logits, 1, vocab, &target, &logprob);
        if (!std::isfinite(logprob)) fail(Code::kBadFile, "expected a finite log-likelihood of token {}, got {}", target, logprob);
        out[r].logprob += logprob;
        out[r].greedy = out[r].greedy && std::max_element(logits, logits + vocab) - logits == target;
      }
    }
  }
}

}  // namespace awq
