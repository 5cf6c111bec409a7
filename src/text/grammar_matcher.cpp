#include "text/grammar_matcher.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "base/error.h"

namespace awq {
namespace {

constexpr size_t kKeptMasks = 64;  // of 20 KB for a vocabulary of 150,000
constexpr int32_t kDead = 0;

}  // namespace

GrammarMatcher::GrammarMatcher(std::shared_ptr<const Grammar> grammar) : grammar_(std::move(grammar)) {
  stacks_.push_back({-1, -1, 0});
  check_internal(intern({}) == kDead, "the empty set of configurations must come first");
  now_ = intern({{grammar_->rules.front().start, 0}});
}

int32_t GrammarMatcher::push(int32_t back_to, int32_t below) {
  const auto [it, is_new] = stack_ids_.try_emplace({back_to, below}, static_cast<int32_t>(stacks_.size()));
  if (is_new) stacks_.push_back({back_to, below, stacks_[static_cast<size_t>(below)].depth + 1});
  return it->second;
}

// The number of the set of everything that can be reached without reading a byte.
int32_t GrammarMatcher::intern(std::vector<Configuration> reached) {
  Key key;
  std::set<Configuration> seen(reached.begin(), reached.end());
  const auto reach = [&](int32_t state, int32_t stack) {
    if (seen.insert({state, stack}).second) reached.push_back({state, stack});
    if (seen.size() > kMaxConfigurations)
      fail(Code::kBadArgument, "the schema is too ambiguous: more than {} ways to read the same text",
           kMaxConfigurations);
  };
  while (!reached.empty()) {
    const auto [state, stack] = reached.back();
    reached.pop_back();
    bool reads = false;
    for (const Grammar::Edge& edge : grammar_->states[static_cast<size_t>(state)]) {
      if (edge.low >= 0)
        reads = true;
      else if (edge.rule < 0)
        reach(edge.to, stack);
      else if (stacks_[static_cast<size_t>(stack)].depth < kMaxDepth)
        reach(grammar_->rules[static_cast<size_t>(edge.rule)].start, push(edge.to, stack));
    }
    if (reads) key.first.push_back({state, stack});
    if (grammar_->ends[static_cast<size_t>(state)]) {
      if (stack == 0)
        key.second = true;
      else
        reach(stacks_[static_cast<size_t>(stack)].back_to, stacks_[static_cast<size_t>(stack)].below);
    }
  }
  std::sort(key.first.begin(), key.first.end());
  const auto [it, is_new] = set_ids_.try_emplace(std::move(key), static_cast<int32_t>(sets_.size()));
  if (is_new) {
    if (sets_.size() >= kMaxSets)
      fail(Code::kBadArgument, "the schema is too complex: more than {} states in one step", kMaxSets);
    sets_.push_back({it->first.first, it->first.second, nullptr});
  }
  return it->second;
}

int32_t GrammarMatcher::next(int32_t set, uint8_t byte) {
  Set& from = sets_[static_cast<size_t>(set)];
  if (!from.next) {
    from.next = std::make_unique<std::array<int32_t, 256>>();
    from.next->fill(-1);
  }
  if (const int32_t known = (*from.next)[byte]; known >= 0) return known;
  std::vector<Configuration> reached;
  for (const auto& [state, stack] : from.configurations)
    for (const Grammar::Edge& edge : grammar_->states[static_cast<size_t>(state)])
      if (edge.low >= 0 && byte >= edge.low && byte <= edge.high) reached.push_back({edge.to, stack});
  std::sort(reached.begin(), reached.end());
  reached.erase(std::unique(reached.begin(), reached.end()), reached.end());
  const int32_t to = intern(std::move(reached));
  (*sets_[static_cast<size_t>(set)].next)[byte] = to;  // intern may have moved the sets
  return to;
}

// Only between steps: no number of a set is held then but that of the place we are at.
void GrammarMatcher::forget_if_full() {
  if (sets_.size() < kMaxSets / 2) return;
  Key here{sets_[static_cast<size_t>(now_)].configurations, sets_[static_cast<size_t>(now_)].complete};
  sets_.clear();
  set_ids_.clear();
  masks_.clear();
  intern({});
  now_ = static_cast<int32_t>(sets_.size());
  sets_.push_back({here.first, here.second, nullptr});
  set_ids_.emplace(std::move(here), now_);
}

bool GrammarMatcher::advance(std::string_view bytes) {
  forget_if_full();
  int32_t set = now_;
  for (const char c : bytes) {
    set = next(set, static_cast<uint8_t>(c));
    if (set == kDead) return false;
  }
  now_ = set;
  return true;
}

bool GrammarMatcher::complete() const { return sets_[static_cast<size_t>(now_)].complete; }

bool GrammarMatcher::can_go_on() const { return !sets_[static_cast<size_t>(now_)].configurations.empty(); }

const std::vector<uint64_t>& GrammarMatcher::mask(const TokenTrie& trie) {
  forget_if_full();
  if (const auto known = masks_.find(now_); known != masks_.end()) return known->second;
  std::vector<uint64_t> bits((static_cast<size_t>(trie.vocab_size()) + 63) / 64, 0);
  std::vector<int32_t> sets(static_cast<size_t>(trie.depth()) + 1);
  sets[0] = now_;
  const auto& nodes = trie.nodes();
  for (size_t i = 0; i < nodes.size();) {
    const TokenTrie::Node& node = nodes[i];
    const int32_t set = next(sets[node.depth - 1u], node.byte);
    if (set == kDead) {
      i = static_cast<size_t>(node.after);
      continue;
    }
    sets[node.depth] = set;
    for (int32_t id = node.first_token; id >= 0; id = trie.next_token(id))
      bits[static_cast<size_t>(id) / 64] |= uint64_t{1} << (id % 64);
    ++i;
  }
  if (masks_.size() >= kKeptMasks) masks_.clear();
  return masks_[now_] = std::move(bits);
}

namespace {

// One answer's place in the grammar.
class Constraint {
 public:
  Constraint(std::shared_ptr<const Grammar> grammar, std::shared_ptr<const TokenTrie> trie,
             std::vector<int32_t> end_ids)
      : matcher_(std::move(grammar)), trie_(std::move(trie)), end_ids_(std::move(end_ids)) {}

  void operator()(std::span<const int32_t> tokens, std::span<float> logits) {
    if (seen_ == 0) seen_ = tokens.size();  // the prompt
    for (; seen_ < tokens.size(); ++seen_)
      check_internal(matcher_.advance(trie_->bytes(tokens[seen_])),
                     "a token that the grammar excludes was drawn");
    std::vector<std::pair<int32_t, float>> ends;
    if (matcher_.complete())
      for (const int32_t id : end_ids_)
        if (static_cast<size_t>(id) < logits.size()) ends.emplace_back(id, logits[static_cast<size_t>(id)]);
    keep(matcher_.mask(*trie_), logits);
    for (const auto& [id, logit] : ends) logits[static_cast<size_t>(id)] = logit;
    if (std::all_of(logits.begin(), logits.end(), [](float x) { return x == -INFINITY; }))
      fail(Code::kUnsupported, "the vocabulary has no token that goes on in the grammar");
  }

 private:
  static void keep(const std::vector<uint64_t>& bits, std::span<float> logits) {
    const size_t known = std::min(bits.size() * 64, logits.size());
    for (size_t i = 0; i < known; i += 64) {
      const uint64_t word = bits[i / 64];
      if (word == ~uint64_t{0}) continue;
      for (size_t j = i; j < std::min(i + 64, known); ++j)
        if ((word >> (j - i) & 1) == 0) logits[j] = -INFINITY;
    }
    std::fill(logits.begin() + static_cast<long>(known), logits.end(), -INFINITY);
  }

  GrammarMatcher matcher_;
  std::shared_ptr<const TokenTrie> trie_;
  std::vector<int32_t> end_ids_;
  size_t seen_ = 0;
};

}  // namespace

std::function<std::function<void(std::span<const int32_t>, std::span<float>)>(int32_t)> constraint(
    std::shared_ptr<const Grammar> grammar, std::shared_ptr<const TokenTrie> trie,
    std::vector<int32_t> end_ids) {
  if (end_ids.empty())
    fail(Code::kBadArgument, "a grammar needs a token that ends the text: the model names none");
  return [=](int32_t) {
    const auto place = std::make_shared<Constraint>(grammar, trie, end_ids);
    return [place](std::span<const int32_t> tokens, std::span<float> logits) { (*place)(tokens, logits); };
  };
}

}  // namespace awq
