// Ids of words seen before. Text repeats its words, so most are looked up, not merged. Thread-safe.
#pragma once
#include <array>
#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "tokenizer/token_model.h"

namespace awq {

class WordCache {
 public:
  static constexpr size_t kLongestWord = 48;  // bytes; longer ones seldom repeat

  // Appends the ids and returns true when the word is known.
  bool append(std::string_view word, std::vector<int32_t>& ids) {
    Shard& shard = shard_of(word);
    const std::lock_guard lock(shard.mutex);
    const auto it = shard.words.find(word);
    if (it == shard.words.end()) return false;
    ids.insert(ids.end(), it->second.begin(), it->second.end());
    return true;
  }

  void put(std::string_view word, std::vector<int32_t> ids) {
    Shard& shard = shard_of(word);
    const std::lock_guard lock(shard.mutex);
    if (shard.words.size() >= kWordsPerShard)
      shard.words.clear();  // bounded; the frequent words come back at once
    shard.words.try_emplace(std::string(word), std::move(ids));
  }

 private:
  static constexpr size_t kWordsPerShard = 4096;
  struct Shard {
    std::mutex mutex;
    std::unordered_map<std::string, std::vector<int32_t>, StringHash, std::equal_to<>> words;
  };
  Shard& shard_of(std::string_view word) { return shards_[(StringHash{}(word) >> 40) % shards_.size()]; }
  std::array<Shard, 16> shards_;
};

}  // namespace awq
