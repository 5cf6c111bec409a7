// The pairs that may be merged in a long word, lowest rank first, then leftmost. One list for each rank that
// occurs: a heap of all pairs would cost a logarithm and a cache miss for each, which a megabyte without
// spaces feels.
#pragma once
#include <algorithm>
#include <cstdint>
#include <functional>
#include <queue>
#include <vector>

namespace awq {

// Entry: has a member `left`, the place in the word.
template <class Entry>
class RankQueue {
 public:
  // Empties the queue, for ranks 0 .. ranks-1.
  void start(size_t ranks) {
    while (!ranks_.empty()) close(ranks_.top());
    if (list_of_rank_.size() < ranks) list_of_rank_.resize(ranks, -1);
  }

  void push(int32_t rank, const Entry& entry) {
    if (list_of_rank_[rank] < 0) open(rank);
    List& list = lists_[list_of_rank_[rank]];
    if (list.next == 0) {
      list.sorted &= list.entries.empty() || list.entries.back().left <= entry.left;
      list.entries.push_back(entry);
      return;
    }
    // A list that is being read: new pairs lie beside the place reached, so a step or two from the front.
    size_t i = --list.next;
    for (; i + 1 < list.entries.size() && list.entries[i + 1].left < entry.left; ++i)
      list.entries[i] = list.entries[i + 1];
    list.entries[i] = entry;
  }

  bool pop(Entry& entry) {
    while (!ranks_.empty()) {
      List& list = lists_[list_of_rank_[ranks_.top()]];
      if (!list.sorted) {
        std::stable_sort(list.entries.begin(), list.entries.end(),
                         [](const Entry& a, const Entry& b) { return a.left < b.left; });
        list.sorted = true;
      }
      if (list.next < list.entries.size()) {
        entry = list.entries[list.next++];
        return true;
      }
      close(ranks_.top());
    }
    return false;
  }

 private:
  struct List {
    std::vector<Entry> entries;
    size_t next = 0;  // entries before have been read
    bool sorted = true;
  };
  void open(int32_t rank) {
    if (free_.empty()) {
      free_.push_back(static_cast<int32_t>(lists_.size()));
      lists_.emplace_back();
    }
    list_of_rank_[rank] = free_.back();
    free_.pop_back();
    ranks_.push(rank);
  }
  void close(int32_t rank) {  // the lowest one
    List& list = lists_[list_of_rank_[rank]];
    list.entries.clear();
    list.next = 0;
    list.sorted = true;
    free_.push_back(list_of_rank_[rank]);
    list_of_rank_[rank] = -1;
    ranks_.pop();
  }

  std::vector<int32_t> list_of_rank_;  // -1: none
  std::vector<List> lists_;
  std::vector<int32_t> free_;
  std::priority_queue<int32_t, std::vector<int32_t>, std::greater<>> ranks_;
};

}  // namespace awq
