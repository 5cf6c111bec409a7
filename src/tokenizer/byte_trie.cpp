#include "tokenizer/byte_trie.h"

#include <algorithm>
#include <deque>

namespace awq {

ByteTrie::ByteTrie(std::vector<std::pair<std::string_view, int32_t>> entries) : nodes_(1) {
  first_.fill(-1);
  std::erase_if(entries, [](const auto& e) { return e.first.empty(); });
  std::stable_sort(entries.begin(), entries.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  // Breadth first, so that the edges of a node lie side by side. A range holds the entries with one prefix.
  struct Range {
    int32_t node;
    size_t begin, end, depth;
  };
  std::deque<Range> todo{{0, 0, entries.size(), 0}};
  while (!todo.empty()) {
    const Range r = todo.front();
    todo.pop_front();
    size_t i = r.begin;
    for (; i < r.end && entries[i].first.size() == r.depth; ++i) nodes_[r.node].value = entries[i].second;
    nodes_[r.node].edges_begin = static_cast<uint32_t>(edge_bytes_.size());
    while (i < r.end) {
      const char byte = entries[i].first[r.depth];
      const size_t begin = i;
      while (i < r.end && entries[i].first[r.depth] == byte) ++i;
      const auto target = static_cast<int32_t>(nodes_.size());
      nodes_.emplace_back();
      edge_bytes_.push_back(static_cast<unsigned char>(byte));
      edge_targets_.push_back(target);
      if (r.node == 0) first_[static_cast<unsigned char>(byte)] = target;
      todo.push_back({target, begin, i, r.depth + 1});
    }
    nodes_[r.node].edges_end = static_cast<uint32_t>(edge_bytes_.size());
  }
}

}  // namespace awq
