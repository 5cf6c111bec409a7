// Strings by their bytes: all entries that begin at a place of a text, in one walk.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace awq {

class ByteTrie {
 public:
  ByteTrie() : ByteTrie(std::vector<std::pair<std::string_view, int32_t>>()) {}
  // Key and value (>= 0); empty keys are left out, of equal keys the last counts.
  explicit ByteTrie(std::vector<std::pair<std::string_view, int32_t>> entries);

  bool empty() const { return edge_bytes_.empty(); }

  // Calls found(length, value) for every entry that begins at `pos`, the shortest first.
  template <class Found>
  void each_prefix(std::string_view text, size_t pos, Found found) const {
    int32_t node = 0;
    for (size_t i = pos; i < text.size(); ++i) {
      node = child(node, static_cast<unsigned char>(text[i]));
      if (node < 0) return;
      if (nodes_[node].value >= 0) found(i + 1 - pos, nodes_[node].value);
    }
  }
  // Length and value of the longest entry that begins at `pos`; length 0: none.
  std::pair<size_t, int32_t> longest(std::string_view text, size_t pos) const {
    std::pair<size_t, int32_t> best{0, -1};
    each_prefix(text, pos, [&](size_t length, int32_t value) { best = {length, value}; });
    return best;
  }

 private:
  struct Node {
    uint32_t edges_begin = 0, edges_end = 0;
    int32_t value = -1;
  };
  int32_t child(int32_t node, unsigned char byte) const {
    if (node == 0) return first_[byte];
    uint32_t low = nodes_[node].edges_begin, high = nodes_[node].edges_end;
    while (high - low > 8) {
      const uint32_t middle = (low + high) / 2;
      (edge_bytes_[middle] <= byte ? low : high) = middle;
    }
    for (; low < high; ++low)
      if (edge_bytes_[low] == byte) return edge_targets_[low];
    return -1;
  }

  std::vector<Node> nodes_;  // 0 is the root
  std::vector<unsigned char> edge_bytes_;
  std::vector<int32_t> edge_targets_;
  std::array<int32_t, 256> first_;  // children of the root
};

}  // namespace awq
