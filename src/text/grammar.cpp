#include "text/grammar.h"

#include "base/error.h"

namespace awq {

using Part = GrammarBuilder::Part;

int32_t GrammarBuilder::state() {
  if (grammar_.states.size() >= max_states_)
    fail(Code::kBadArgument, "the schema is too large: its automaton has more than {} states", max_states_);
  grammar_.states.emplace_back();
  return static_cast<int32_t>(grammar_.states.size()) - 1;
}

void GrammarBuilder::connect(int32_t from, int32_t to) {
  grammar_.states[static_cast<size_t>(from)].push_back({.to = to});
}

void GrammarBuilder::connect(int32_t from, uint8_t low, uint8_t high, int32_t to) {
  grammar_.states[static_cast<size_t>(from)].push_back({.to = to, .low = low, .high = high});
}

int32_t GrammarBuilder::new_rule() {
  grammar_.rules.emplace_back();
  return static_cast<int32_t>(grammar_.rules.size()) - 1;
}

void GrammarBuilder::define(int32_t rule, Part part) {
  const int32_t end = state();
  connect(part.out, end);
  grammar_.rules[static_cast<size_t>(rule)] = {part.in, end};
}

namespace {

// Whether the end of its rule can be reached from each state, through rules whose own end can.
std::vector<uint8_t> states_with_a_way_on(const Grammar& g) {
  struct Step {
    int32_t from, to, rule;
  };
  std::vector<std::vector<Step>> into(g.states.size()), calls(g.rules.size());
  for (size_t from = 0; from < g.states.size(); ++from)
    for (const Grammar::Edge& edge : g.states[from]) {
      const Step step{static_cast<int32_t>(from), edge.to, edge.rule};
      into[static_cast<size_t>(edge.to)].push_back(step);
      if (edge.rule >= 0) calls[static_cast<size_t>(edge.rule)].push_back(step);
    }
  std::vector<std::vector<size_t>> started(g.states.size());
  for (size_t rule = 0; rule < g.rules.size(); ++rule)
    started[static_cast<size_t>(g.rules[rule].start)].push_back(rule);
  std::vector<uint8_t> good(g.states.size(), 0);
  std::vector<int32_t> open;
  const auto mark = [&](int32_t state) {
    if (good[static_cast<size_t>(state)]) return;
    good[static_cast<size_t>(state)] = 1;
    open.push_back(state);
  };
  const auto is_good = [&](int32_t rule) {
    return good[static_cast<size_t>(g.rules[static_cast<size_t>(rule)].start)] != 0;
  };
  for (const Grammar::Rule& rule : g.rules) mark(rule.end);
  while (!open.empty()) {
    const auto state = static_cast<size_t>(open.back());
    open.pop_back();
    for (const Step& step : into[state])
      if (step.rule < 0 || is_good(step.rule)) mark(step.from);
    for (const size_t rule : started[state])
      for (const Step& step : calls[rule])
        if (good[static_cast<size_t>(step.to)]) mark(step.from);
  }
  return good;
}

}  // namespace

Grammar GrammarBuilder::finish() {
  grammar_.ends.assign(grammar_.states.size(), 0);
  for (const Grammar::Rule& rule : grammar_.rules) {
    check_internal(rule.start >= 0, "a rule of a grammar was not defined");
    grammar_.ends[static_cast<size_t>(rule.end)] = 1;
  }
  const std::vector<uint8_t> good = states_with_a_way_on(grammar_);
  const auto is_good = [&](const Grammar::Edge& edge) {
    return good[static_cast<size_t>(edge.to)] &&
           (edge.rule < 0 || good[static_cast<size_t>(grammar_.rules[static_cast<size_t>(edge.rule)].start)]);
  };
  for (auto& edges : grammar_.states) std::erase_if(edges, [&](const auto& edge) { return !is_good(edge); });
  if (!good[static_cast<size_t>(grammar_.rules.front().start)])
    fail(Code::kBadArgument, "the schema is contradictory: nothing fits it");
  return std::move(grammar_);
}

Part GrammarBuilder::nothing() {
  const int32_t s = state();
  return {s, s};
}

Part GrammarBuilder::bytes(uint8_t low, uint8_t high) { return one_of({{low, high}}); }

Part GrammarBuilder::one_of(std::initializer_list<std::pair<uint8_t, uint8_t>> ranges) {
  const Part part{state(), state()};
  for (const auto& [low, high] : ranges) connect(part.in, low, high, part.out);
  return part;
}

Part GrammarBuilder::text(std::string_view literal) {
  Part part = nothing();
  for (const char c : literal) {
    const int32_t next = state();
    connect(part.out, static_cast<uint8_t>(c), static_cast<uint8_t>(c), next);
    part.out = next;
  }
  return part;
}

Part GrammarBuilder::call(int32_t rule) {
  const Part part{state(), state()};
  grammar_.states[static_cast<size_t>(part.in)].push_back({.to = part.out, .rule = rule});
  return part;
}

Part GrammarBuilder::sequence(std::initializer_list<Part> parts) {
  Part whole = nothing();
  for (const Part& part : parts) {
    connect(whole.out, part.in);
    whole.out = part.out;
  }
  return whole;
}

Part GrammarBuilder::choice(const std::vector<Part>& parts) {
  const Part whole{state(), state()};
  for (const Part& part : parts) {
    connect(whole.in, part.in);
    connect(part.out, whole.out);
  }
  return whole;
}

Part GrammarBuilder::optional(Part part) { return choice({part, nothing()}); }

Part GrammarBuilder::repeat(const Maker& make, int64_t least, int64_t most) {
  Part whole = nothing();
  const auto append = [&](bool may_end, int32_t end) {
    const Part part = make();
    if (may_end) connect(whole.out, end);
    connect(whole.out, part.in);
    whole.out = part.out;
  };
  for (int64_t i = 0; i < least; ++i) append(false, 0);
  const int32_t end = state();
  for (int64_t i = least; i < most; ++i) append(true, end);
  if (most < 0) {
    const Part part = make();
    const int32_t loop = state();
    connect(whole.out, loop);
    connect(loop, part.in);
    connect(part.out, loop);
    whole.out = loop;
  }
  connect(whole.out, end);
  return {whole.in, end};
}

}  // namespace awq
