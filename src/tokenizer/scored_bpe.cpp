#include "tokenizer/scored_bpe.h"

#include <algorithm>

#include "base/error.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/rank_queue.h"
#include "tokenizer/unicode.h"

namespace awq {
namespace {

struct Candidate {
  int32_t left, right;
  size_t bytes;
};

}  // namespace

ScoredBpe::ScoredBpe(const ModelSpec& spec, const std::string& where) : TokenModel(spec, where) {
  const size_t n = spec.vocab.size();
  if (spec.scores.size() != n || spec.types.size() != n)
    fail(Code::kBadFile, "{}: expected {} scores, one per token, got {}", where, n, spec.scores.size());
  std::vector<std::pair<std::string_view, int32_t>> user_defined;
  for (size_t i = 0; i < n; ++i) {
    const auto& [token, id] = spec.vocab[i];
    if (spec.types[i] == PieceType::kReserved) {
      ids_[token] = id;  // counts before a piece written alike
      continue;
    }
    pieces_[token] = {id, 0, i, spec.types[i] == PieceType::kUnused};
    longest_ = std::max(longest_, token.size());
    if (spec.types[i] == PieceType::kUserDefined) user_defined.emplace_back(token, id);
  }
  user_defined_ = ByteTrie(std::move(user_defined));
  std::vector<float> scores;
  for (const auto& [token, piece] : pieces_) scores.push_back(static_cast<float>(spec.scores[piece.entry]));
  std::sort(scores.begin(), scores.end(), std::greater<>());
  scores.erase(std::unique(scores.begin(), scores.end()), scores.end());
  ranks_ = scores.size();
  for (auto& [token, piece] : pieces_) {
    const auto score = static_cast<float>(spec.scores[piece.entry]);
    piece.rank = static_cast<int32_t>(
        std::lower_bound(scores.begin(), scores.end(), score, std::greater<>()) - scores.begin());
  }
}

void ScoredBpe::cut(std::string_view word, std::vector<Symbol>& symbols) const {
  symbols.clear();
  for (size_t pos = 0; pos < word.size();) {
    const size_t own = user_defined_.longest(word, pos).first;
    const size_t length = own > 0 ? own : utf8_length(word[pos]);
    const auto n = static_cast<int32_t>(symbols.size());
    symbols.push_back({word.substr(pos, length), n - 1, n + 1, own > 0});
    pos += length;
  }
  symbols.back().next = -1;
}

void ScoredBpe::merge(std::vector<Symbol>& symbols, Halves& halves) const {
  thread_local RankQueue<Candidate> queue;
  queue.start(ranks_);
  const auto push = [&](int32_t left, int32_t right) {
    if (left < 0 || right < 0 || symbols[left].frozen || symbols[right].frozen) return;
    const std::string_view l = symbols[left].text;
    const size_t bytes = l.size() + symbols[right].text.size();
    if (bytes > longest_) return;
    const auto it = pieces_.find(std::string_view(l.data(), bytes));
    if (it == pieces_.end()) return;
    if (it->second.unused) halves[it->second.id] = l.size();
    queue.push(it->second.rank, {left, right, bytes});
  };
  for (int32_t i = 1; i < static_cast<int32_t>(symbols.size()); ++i) push(i - 1, i);
  for (Candidate top; queue.pop(top);) {
    Symbol &left = symbols[top.left], &right = symbols[top.right];
    if (left.text.empty() || right.text.empty() || left.text.size() + right.text.size() != top.bytes)
      continue;  // one of the two has changed since
    left.text = {left.text.data(), top.bytes};
    left.next = right.next;
    if (right.next >= 0) symbols[right.next].previous = top.left;
    right.text = {};
    push(left.previous, top.left);
    push(top.left, left.next);
  }
}

// A piece that is unused goes back to the halves it was made of.
void ScoredBpe::append(std::string_view text, const Halves& halves, bool& after_unknown,
                       std::vector<int32_t>& ids) const {
  thread_local std::vector<std::string_view> todo;  // a stack
  todo.assign(1, text);
  while (!todo.empty()) {
    const std::string_view t = todo.back();
    todo.pop_back();
    const auto piece = pieces_.find(t);
    if (piece != pieces_.end() && piece->second.unused) {
      if (const auto half = halves.find(piece->second.id); half != halves.end()) {
        todo.push_back(t.substr(half->second));
        todo.push_back(t.substr(0, half->second));
        continue;
      }
    }
    append_id(t, id_of(t), after_unknown, ids);
  }
}

void ScoredBpe::encode_word(std::string_view word, bool raw_bytes, std::vector<int32_t>& ids) const {
  if (raw_bytes) return encode_word(to_byte_level(word), false, ids);
  thread_local std::vector<Symbol> symbols;
  Halves halves;
  cut(word, symbols);
  merge(symbols, halves);
  bool after_unknown = false;
  for (int32_t i = 0; i >= 0; i = symbols[i].next) append(symbols[i].text, halves, after_unknown, ids);
}

}  // namespace awq
