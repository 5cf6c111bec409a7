// Which pages of a KvCache are free, and which hold a prefix that another sequence may go on from. A page
// holds kPageTokens tokens of one sequence, over all layers.
//
// Published pages form a tree: a page's content is its own tokens after those of the page before it. A prefix
// is found by walking down from the start and comparing every token, so that a collision of hashes can never
// hand one request the text of another. Whoever uses a page uses all pages before it; so in the order of
// their last use a page always comes before the one it follows, and evicting the oldest never cuts a chain in
// the middle.
#pragma once
#include <array>
#include <cstdint>
#include <map>
#include <span>
#include <unordered_map>
#include <vector>

#include "model/model.h"

namespace awq {

using PageTokens = std::array<int32_t, kPageTokens>;

class PageAllocator {
 public:
  explicit PageAllocator(int64_t pages);

  int64_t pages() const { return static_cast<int64_t>(state_.size()); }
  // Pages that allocate() can hand out: those with nothing in them, and those nobody uses.
  int64_t available() const { return static_cast<int64_t>(free_.size() + unused_.size()); }
  // Of these, pages whose content is still known.
  int64_t kept() const { return static_cast<int64_t>(unused_.size()); }

  // Appends n page numbers to `out`, or leaves it alone and returns false when fewer are available. Empty
  // pages come first, the one released last before the others (it is the likeliest to be in the processor's
  // caches), then the least recently used of those kept.
  bool allocate(int64_t n, std::vector<int32_t>& out);
  // Gives up one use of each of `pages`, a sequence's in order, and clears it. kInternal when one was free
  // already.
  void release(std::vector<int32_t>& pages);

  // Appends the pages that hold the longest known prefix of `tokens` in whole pages, one use of each taken.
  // Only pages published under the same salt are found.
  void find_prefix(uint64_t salt, std::span<const int32_t> tokens, std::vector<int32_t>& out);
  // `page`, which the caller uses, now holds `tokens` after the content of `previous` (-1: it is the first),
  // a published page that the caller uses too. Returns the page to go on with: when these tokens are known
  // already that one, and the use of `page` is given up for a use of it.
  int32_t publish(uint64_t salt, int32_t previous, const PageTokens& tokens, int32_t page);

  // Pages that hold so many tokens.
  static int64_t pages_for(int64_t tokens);

 private:
  struct State {
    int32_t users = 0;
    bool published = false;
    int32_t previous = -1;  // of a published page
    uint64_t salt = 0;
    uint64_t hash = 0;
    uint64_t used_at = 0;  // key in unused_, when there
    PageTokens tokens = {};
  };
  State& state(int32_t page) { return state_.at(static_cast<size_t>(page)); }
  uint64_t hash_of(uint64_t salt, int32_t previous, const PageTokens& tokens) const;
  int32_t find(uint64_t salt, int32_t previous, const PageTokens& tokens) const;  // -1: not known
  void use(int32_t page);
  void release(int32_t page);
  int32_t take();

  std::vector<State> state_;                            // [pages]
  std::vector<int32_t> free_;                           // a stack
  std::map<uint64_t, int32_t> unused_;                  // published pages without users, by time of last use
  std::unordered_multimap<uint64_t, int32_t> by_hash_;  // published pages
  uint64_t clock_ = 0;
  uint64_t hash_key_;  // random: which prompts collide cannot be known from outside
};

}  // namespace awq
