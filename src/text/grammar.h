// A language of byte strings that generation can be held to: rules that call each other, each an automaton
// over bytes. Building one is the schema compiler's work (json_schema.h), following one the matcher's
// (grammar_matcher.h).
#pragma once
#include <cstdint>
#include <functional>
#include <string_view>
#include <utility>
#include <vector>

namespace awq {

// Nondeterministic automata of all rules in one table of states. A rule begins in its start state and is done
// in its end state, which has no edges.
struct Grammar {
  struct Edge {
    int32_t to = 0;
    int32_t rule = -1;            // run this rule on the way, or
    int16_t low = -1, high = -1;  // read a byte in this range, or, with neither, nothing
  };
  struct Rule {
    int32_t start = -1, end = -1;
  };
  std::vector<std::vector<Edge>> states;
  std::vector<uint8_t> ends;  // [states]: the end of its rule
  std::vector<Rule> rules;    // the language is that of rule 0
};

// Puts automata together. A part of a rule has one way in and one way out.
class GrammarBuilder {
 public:
  struct Part {
    int32_t in, out;
  };
  using Maker = std::function<Part()>;

  // More states than the limit are refused with kBadArgument: what a request may cost is bounded.
  static constexpr size_t kMaxStates = 50'000;
  explicit GrammarBuilder(size_t max_states = kMaxStates) : max_states_(max_states) {}

  int32_t new_rule();
  void define(int32_t rule, Part part);
  // Without the edges that lead nowhere. kBadArgument when nothing is left.
  Grammar finish();

  Part nothing();
  Part bytes(uint8_t low, uint8_t high);
  // Any one byte of these ranges.
  Part one_of(std::initializer_list<std::pair<uint8_t, uint8_t>> ranges);
  Part text(std::string_view literal);
  Part call(int32_t rule);
  Part sequence(std::initializer_list<Part> parts);
  Part choice(const std::vector<Part>& parts);
  Part optional(Part part);
  // From `least` to `most` times (most < 0: any number), each made anew.
  Part repeat(const Maker& make, int64_t least, int64_t most);

  int32_t state();
  void connect(int32_t from, int32_t to);
  void connect(int32_t from, uint8_t low, uint8_t high, int32_t to);

 private:
  size_t max_states_;
  Grammar grammar_;
};

}  // namespace awq
