#include "tokenizer/bpe.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace awq {
namespace {

// Sennrich et al. 2016, algorithm 1, as written: find the best pair, join its leftmost occurrence, look
// again.
std::vector<std::string> reference(const ModelSpec& spec, const std::string& word) {
  std::vector<std::string> parts;
  for (const char c : word) parts.emplace_back(1, c);
  for (;;) {
    size_t best_rank = spec.merges.size(), best = 0;
    for (size_t i = 0; i + 1 < parts.size(); ++i) {
      const auto it = std::find(spec.merges.begin(), spec.merges.end(), std::pair(parts[i], parts[i + 1]));
      const auto rank = static_cast<size_t>(it - spec.merges.begin());
      if (rank < best_rank) best_rank = rank, best = i;
    }
    if (best_rank == spec.merges.size()) return parts;
    parts[best] += parts[best + 1];
    parts.erase(parts.begin() + static_cast<ptrdiff_t>(best) + 1);
  }
}

TEST(Bpe, EqualsTheTextbookAlgorithm) {
  std::mt19937 random(7);
  for (int round = 0; round < 40; ++round) {
    ModelSpec spec;
    for (const char* c : {"a", "b", "c", "d"}) spec.vocab.emplace_back(c, spec.vocab.size());
    while (spec.merges.size() < 12) {
      const auto pick = [&] { return spec.vocab[random() % spec.vocab.size()].first; };
      const std::string left = pick(), right = pick(), joined = left + right;
      // Different pairs may not make one token here: then `tokenizers` keeps an outdated rank (see
      // Bpe::merge).
      if (std::any_of(spec.vocab.begin(), spec.vocab.end(), [&](const auto& v) { return v.first == joined; }))
        continue;
      spec.vocab.emplace_back(joined, spec.vocab.size());
      spec.merges.emplace_back(left, right);
    }
    const Bpe bpe(spec, "test");
    for (int w = 0; w < 20; ++w) {
      // Long words take another way through the merges.
      std::string word(w < 16 ? 1 + random() % 30 : 129 + random() % 400, 'a');
      for (char& c : word) c = static_cast<char>('a' + random() % 4);
      std::vector<int32_t> ids;
      bpe.encode_word(word, false, ids);
      std::vector<int32_t> expected;
      for (const std::string& part : reference(spec, word)) expected.push_back(*bpe.id_of(part));
      EXPECT_EQ(ids, expected) << word;
    }
  }
}

}  // namespace
}  // namespace awq
