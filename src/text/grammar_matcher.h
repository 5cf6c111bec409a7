// Follows a text through a grammar, and says which tokens may come next.
//
// A place in the text is a set of configurations, each a state and the stack of rules it is in; stacks are
// shared. Sets are numbered as they appear and their successors remembered, so that the walk over the
// vocabulary costs a table look-up for each byte once a set is known, and so does a set that comes again (a
// string goes on in the same one) for the whole mask.
#pragma once
#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/grammar.h"
#include "text/token_trie.h"

namespace awq {

class GrammarMatcher {
 public:
  // More sets, or more configurations in one, end the request with kBadArgument.
  static constexpr size_t kMaxSets = 20'000, kMaxConfigurations = 5'000;
  // Rules within rules: deeper ones are not generated.
  static constexpr int32_t kMaxDepth = 128;

  explicit GrammarMatcher(std::shared_ptr<const Grammar> grammar);

  // False when the text so far cannot go on with these bytes; nothing has changed then.
  bool advance(std::string_view bytes);
  bool complete() const;   // what was read is in the language
  bool can_go_on() const;  // some byte may follow

  // One bit for each token of the tree that may follow; valid until the next call.
  const std::vector<uint64_t>& mask(const TokenTrie& trie);

 private:
  struct Configuration {
    int32_t state, stack;
    auto operator<=>(const Configuration&) const = default;
  };
  struct Stack {
    int32_t back_to, below, depth;  // the state to go on in, and the rest
  };
  struct Set {
    std::vector<Configuration> configurations;  // sorted; those that read a byte
    bool complete = false;
    std::unique_ptr<std::array<int32_t, 256>> next;  // -1: not known yet
  };
  using Key = std::pair<std::vector<Configuration>, bool>;

  int32_t push(int32_t back_to, int32_t below);
  int32_t intern(std::vector<Configuration> reached);
  int32_t next(int32_t set, uint8_t byte);
  void forget_if_full();

  std::shared_ptr<const Grammar> grammar_;
  std::vector<Stack> stacks_;  // 0: the empty one
  std::map<std::pair<int32_t, int32_t>, int32_t> stack_ids_;
  std::vector<Set> sets_;  // 0: no way on
  std::map<Key, int32_t> set_ids_;
  std::unordered_map<int32_t, std::vector<uint64_t>> masks_;
  int32_t now_ = 0;
};

// A Request::make_constraint that holds answers to the grammar. `end_ids`, those that end this request, may
// come where the text is complete and must where it cannot go on; kBadArgument when there are none.
std::function<std::function<void(std::span<const int32_t>, std::span<float>)>(int32_t)> constraint(
    std::shared_ptr<const Grammar> grammar, std::shared_ptr<const TokenTrie> trie,
    std::vector<int32_t> end_ids);

}  // namespace awq
