#include "runtime/drafting.h"

#include <algorithm>

#include "runtime/sampling.h"
#include "runtime/sequence.h"

namespace awq {

uint64_t PromptLookup::key(const int32_t* tokens, size_t n) {
  uint64_t h = n;
  for (size_t i = 0; i < n; ++i) h = mix(h + static_cast<uint32_t>(tokens[i]));
  return h;
}

void PromptLookup::guess(std::span<const int32_t> tokens, int64_t n, std::vector<int32_t>& out) {
  out.clear();
  // The n-grams at the very end have nothing behind them yet.
  for (; indexed_ < tokens.size(); ++indexed_)
    for (size_t length = kShortest; length <= std::min(kLongest, indexed_); ++length)
      after_[key(tokens.data() + indexed_ - length, length)] = static_cast<int64_t>(indexed_);
  if (n <= 0) return;
  for (size_t length = std::min(kLongest, tokens.size()); length >= kShortest; --length) {
    const int32_t* suffix = tokens.data() + tokens.size() - length;
    const auto it = after_.find(key(suffix, length));
    if (it == after_.end()) continue;
    const auto at = static_cast<size_t>(it->second);
    // Hashes may collide; then the guess would only be a bad one, but a look is cheap.
    if (!std::equal(suffix, suffix + length, tokens.data() + at - length)) continue;
    for (size_t i = at; i < tokens.size() && static_cast<int64_t>(out.size()) < n; ++i) out.push_back(tokens[i]);
    return;
  }
}

void DraftLength::learn(int64_t guessed, int64_t right) {
  constexpr int64_t kLongestPause = 32;
  if (guessed == 0) {
    pause_ = std::max<int64_t>(0, pause_ - 1);
    return;
  }
  if (right == 0) {
    length_ = 2;
    pause_ = std::min(kLongestPause, int64_t{1} << std::min<int64_t>(misses_++, 8)) - 1;
    return;
  }
  misses_ = 0;
  length_ = right == guessed ? std::min(kMostDrafts, 2 * length_) : right + 1;
}

DraftModel::DraftModel(std::shared_ptr<const Model> model, int64_t pages, DType dtype, int64_t max_tokens)
    : model_(std::move(model)), cache_(*model_, pages, dtype), max_tokens_(max_tokens) {}

bool DraftModel::knows(const Sequence& s, int64_t guesses) const {
  const ModelConfig& config = model_->config();
  if (s.size() + guesses > config.max_position) return false;
  return std::all_of(s.tokens.begin() + s.draft_past, s.tokens.end(), [&](int32_t id) { return id < config.vocab; });
}

// One forward over what each sequence has beyond its draft_past, at most max_tokens_ in all; last: the likeliest token after each.
// Without it the last token of each stays unread.
void DraftModel::run(std::span<Sequence* const> sequences, std::vector<int32_t>* last) {
  std::vector<int32_t> tokens, positions;
  std::vector<SpanView> spans;
  std::vector<int64_t> lengths;
  int64_t room = max_tokens_;
  for (Sequence* s : sequences) {
    const int64_t have = s->size() + static_cast<int64_t>(s->draft.size()) - (last == nullptr ? 1 : 0), n = std::min(room, have - s->draft_past);
    if (n <= 0) break;
    spans.push_back({static_cast<int64_t>(tokens.size()), n, s->draft_past, s->pages.data()});
    lengths.push_back(s->prompt_size() + s->max_tokens);
    for (int64_t i = s->draft_past; i < s->draft_past + n; ++i) {
      tokens.push_back(i < s->size() ? s->tokens[static_cast<size_t>(i)] : s->draft[static_cast<size_t>(i - s->size())]);
      positions.push_back(static_cast<int32_t>(i));
    }
    room -= n;
  }
  model_->forward({tokens, positions, spans, lengths}, &cache_, scratch_, states_);
  for (size_t i = 0; i < spans.size(); ++i) sequences[i]->draft_past += spans[i].tokens;
  if (last == nullptr) return;
  asked_.clear();
  for (const SpanView& span : spans) asked_.push_back({.row = span.first + span.tokens - 1, .draws = true});
  model_->draw(states_, asked_, answers_);
  *last = answers_.tokens;
  const float* row = answers_.logits.data();
  for (int32_t& id : *last) {
    if (id >= 0) continue;
    const float* end = row + model_->config().vocab;
    id = static_cast<int32_t>(std::max_element(row, end) - row);
    row = end;
  }
}

void DraftModel::guess(std::span<const Wanted> wanted) {
  std::vector<Wanted> open;
  for (const Wanted& w : wanted) {
    w.sequence->draft.clear();
    w.sequence->draft_past = std::min(w.sequence->draft_past, w.sequence->size() - 1);
    if (w.guesses > 0 && knows(*w.sequence, w.guesses)) open.push_back(w);
  }
  // What the model has not read yet, all but the last token of each: that one comes with the others.
  for (const Wanted& w : open)
    while (w.sequence->size() - w.sequence->draft_past > max_tokens_ / static_cast<int64_t>(open.size())) run(std::span(&w.sequence, 1), nullptr);
  std::vector<Sequence*> sequences;
  std::vector<int32_t> last;
  while (true) {
    std::erase_if(open, [](const Wanted& w) { return static_cast<int64_t>(w.sequence->draft.size()) >= w.guesses; });
    if (open.empty()) return;
    sequences.clear();
    for (const Wanted& w : open) sequences.push_back(w.sequence);
    run(sequences, &last);
    for (size_t i = 0; i < sequences.size(); ++i) sequences[i]->draft.push_back(last[i]);
  }
}

}  // namespace awq
