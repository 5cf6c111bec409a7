#include "text/json_rules.h"

#include <algorithm>
#include <map>
#include <string>
#include <tuple>

#include "base/error.h"

namespace awq {

using Part = GrammarBuilder::Part;

namespace {

constexpr int64_t kDigits = 18, kLongestIndent = 20;

std::string padded(int64_t value, size_t length) {
  const std::string digits = std::to_string(value);
  return std::string(length - digits.size(), '0') + digits;
}

Part hex_digit(GrammarBuilder& b) { return b.one_of({{'0', '9'}, {'a', 'f'}, {'A', 'F'}}); }

// Well-formed UTF-8 (Unicode 15, table 3-7) of more than one byte.
Part long_character(GrammarBuilder& b) {
  const auto tail = [&] { return b.bytes(0x80, 0xbf); };
  return b.choice({b.sequence({b.bytes(0xc2, 0xdf), tail()}),
                   b.sequence({b.bytes(0xe0, 0xe0), b.bytes(0xa0, 0xbf), tail()}),
                   b.sequence({b.one_of({{0xe1, 0xec}, {0xee, 0xef}}), tail(), tail()}),
                   b.sequence({b.bytes(0xed, 0xed), b.bytes(0x80, 0x9f), tail()}),
                   b.sequence({b.bytes(0xf0, 0xf0), b.bytes(0x90, 0xbf), tail(), tail()}),
                   b.sequence({b.bytes(0xf1, 0xf3), tail(), tail(), tail()}),
                   b.sequence({b.bytes(0xf4, 0xf4), b.bytes(0x80, 0x8f), tail(), tail()})});
}

Part escaped_character(GrammarBuilder& b) {
  const auto hex = [&] { return hex_digit(b); };
  const Part short_form = b.one_of(
      {{'"', '"'}, {'\\', '\\'}, {'/', '/'}, {'b', 'b'}, {'f', 'f'}, {'n', 'n'}, {'r', 'r'}, {'t', 't'}});
  const Part below_d = b.sequence(
      {b.one_of({{'0', '9'}, {'a', 'c'}, {'A', 'C'}, {'e', 'f'}, {'E', 'F'}}), hex(), hex(), hex()});
  const Part with_d = b.sequence({b.one_of({{'d', 'd'}, {'D', 'D'}}), b.bytes('0', '7'), hex(), hex()});
  return b.sequence(
      {b.text("\\"), b.choice({short_form, b.sequence({b.text("u"), b.choice({below_d, with_d})})})});
}

}  // namespace

JsonRules::JsonRules(GrammarBuilder& builder)
    : b_(builder),
      space_(b_.new_rule()),
      non_ascii_(b_.new_rule()),
      character_(b_.new_rule()),
      any_value_(b_.new_rule()),
      any_object_(b_.new_rule()) {
  const auto indent = [this] { return b_.one_of({{' ', ' '}, {'\t', '\t'}}); };
  b_.define(space_, b_.choice({b_.nothing(), b_.text(" "),
                               b_.sequence({b_.text("\n"), b_.repeat(indent, 0, kLongestIndent)})}));
  b_.define(non_ascii_, long_character(b_));
  const Part plain =
      b_.one_of({{0x20, 0x21}, {0x23, 0x5b}, {0x5d, 0x7e}});  // but for quotation mark and backslash
  b_.define(character_, b_.choice({plain, non_ascii(), escaped_character(b_)}));
  const auto value = [this] { return any_value(); };
  b_.define(any_object_, map(value));
  b_.define(any_value_, b_.choice({any_object(), array({}, value, 0, -1), string(), number({}),
                                   b_.text("true"), b_.text("false"), b_.text("null")}));
}

Part JsonRules::space() { return b_.call(space_); }
Part JsonRules::non_ascii() { return b_.call(non_ascii_); }
Part JsonRules::character() { return b_.call(character_); }
Part JsonRules::any_value() { return b_.call(any_value_); }
Part JsonRules::any_object() { return b_.call(any_object_); }

Part JsonRules::string(int64_t least, int64_t most) {
  return b_.sequence({b_.text("\""), b_.repeat([this] { return character(); }, least, most), b_.text("\"")});
}

Part JsonRules::array(const std::vector<Part>& first, const GrammarBuilder::Maker& more, int64_t least,
                      int64_t most) {
  const auto fixed = static_cast<int64_t>(first.size());
  const int32_t end = b_.state();
  Part all = b_.sequence({b_.text("["), space()});
  int64_t count = 0;
  const auto may_end = [&] {
    if (count >= least) b_.connect(all.out, end);
  };
  const auto append = [&](Part item) {
    may_end();
    if (count++ > 0) item = b_.sequence({space(), b_.text(","), space(), item});
    b_.connect(all.out, item.in);
    all.out = item.out;
  };
  for (const Part& item : first)
    if (most < 0 || count < most) append(item);
  if (more && count == fixed) {
    const int64_t counted = most < 0 ? std::max(least, count + 1) : most;
    while (count < counted) append(more());
    if (most < 0) {
      const Part again = b_.sequence({space(), b_.text(","), space(), more()});
      b_.connect(all.out, again.in);
      b_.connect(again.out, all.out);
    }
  }
  may_end();
  return b_.sequence({{all.in, end}, space(), b_.text("]")});
}

Part JsonRules::map(const GrammarBuilder::Maker& value) {
  const auto entry = [&] { return b_.sequence({string(), b_.text(":"), space(), value()}); };
  const auto following = [&] { return b_.sequence({b_.text(","), space(), entry()}); };
  const Part entries = b_.sequence({entry(), b_.repeat(following, 0, -1), space()});
  return b_.sequence({b_.text("{"), space(), b_.optional(entries), b_.text("}")});
}

// Numbers of one length without sign, of the digits of low and high: at each place the digits are free, or
// still those of a limit.
Part JsonRules::digits_of_length(int64_t low, int64_t high) {
  const std::string high_digits = std::to_string(high), low_digits = padded(low, high_digits.size());
  const int32_t out = b_.state();
  std::map<std::tuple<size_t, bool, bool>, int32_t> states;
  const std::function<int32_t(size_t, bool, bool)> at = [&](size_t place, bool at_low,
                                                            bool at_high) -> int32_t {
    if (place == high_digits.size()) return out;
    const auto [it, is_new] = states.try_emplace({place, at_low, at_high}, -1);
    if (!is_new) return it->second;
    const int32_t state = it->second = b_.state();
    const char least = at_low ? low_digits[place] : '0', most = at_high ? high_digits[place] : '9';
    for (char digit = least; digit <= most; ++digit)
      b_.connect(state, static_cast<uint8_t>(digit), static_cast<uint8_t>(digit),
                 at(place + 1, at_low && digit == least, at_high && digit == most));
    return state;
  };
  return {at(0, true, true), out};
}

Part JsonRules::digits(int64_t low, int64_t high) {
  std::vector<Part> lengths;
  for (int64_t first = 0, last = 9;; first = last + 1, last = last * 10 + 9) {
    if (const int64_t from = std::max(first, low), to = std::min(last, high); from <= to)
      lengths.push_back(digits_of_length(from, to));
    if (last >= high || last >= kLargestNumber) break;
  }
  return b_.choice(lengths);
}

namespace {

struct Limits {
  int64_t low, high;
};

Limits limits(const NumberRange& range) {
  const auto clamped = [](int64_t x) { return std::clamp(x, -kLargestNumber, kLargestNumber); };
  return {clamped(range.low.value_or(-kLargestNumber)), clamped(range.high.value_or(kLargestNumber))};
}

[[noreturn]] void fail_empty(const NumberRange& range) {
  const auto name = [](const std::optional<int64_t>& x) {
    return x ? std::to_string(*x) : std::string("none");
  };
  fail(Code::kBadArgument, "no number lies within the limits {} and {}", name(range.low), name(range.high));
}

}  // namespace

Part JsonRules::integer(const NumberRange& range) {
  auto [low, high] = limits(range);
  if (range.above_low) ++low;
  if (range.below_high) --high;
  if (low > high) fail_empty(range);
  std::vector<Part> parts;
  if (high >= 0) parts.push_back(digits(std::max<int64_t>(low, 0), high));
  if (low < 0) parts.push_back(b_.sequence({b_.text("-"), digits(std::max<int64_t>(1, -high), -low)}));
  return b_.choice(parts);
}

Part JsonRules::fraction() {
  return b_.sequence({b_.text("."), b_.repeat([this] { return b_.bytes('0', '9'); }, 1, kDigits)});
}

// Decimal numbers without sign. A whole part below high takes any fraction; high itself only zeros.
Part JsonRules::magnitudes(int64_t low, int64_t high, bool above_low, bool below_high) {
  std::vector<Part> parts;
  const auto zeros = [this](int64_t least) {
    return b_.repeat([this] { return b_.bytes('0', '0'); }, least, kDigits / 2);
  };
  const int64_t first = above_low ? low + 1 : low;
  if (first < high) parts.push_back(b_.sequence({digits(first, high - 1), b_.optional(fraction())}));
  if (above_low && low < high)
    parts.push_back(b_.sequence({digits(low, low), b_.text("."), zeros(0), b_.bytes('1', '9'),
                                 b_.repeat([this] { return b_.bytes('0', '9'); }, 0, kDigits / 2)}));
  if (!below_high && (low < high || !above_low))
    parts.push_back(b_.sequence({digits(high, high), b_.optional(b_.sequence({b_.text("."), zeros(1)}))}));
  return b_.choice(parts);
}

Part JsonRules::number(const NumberRange& range) {
  const auto [low, high] = limits(range);
  if (low > high || (low == high && (range.above_low || range.below_high))) fail_empty(range);
  if (!range.low && !range.high) {
    const auto digit = [this] { return b_.bytes('0', '9'); };
    const Part exponent =
        b_.sequence({b_.one_of({{'e', 'e'}, {'E', 'E'}}), b_.optional(b_.one_of({{'+', '+'}, {'-', '-'}})),
                     b_.repeat(digit, 1, 2)});
    return b_.sequence({b_.optional(b_.text("-")), digits(0, kLargestNumber), b_.optional(fraction()),
                        b_.optional(exponent)});
  }
  std::vector<Part> parts;
  if (high > 0 || (high == 0 && !range.below_high))
    parts.push_back(
        magnitudes(std::max<int64_t>(low, 0), high, low >= 0 && range.above_low, range.below_high));
  if (low < 0)
    parts.push_back(b_.sequence({b_.text("-"), magnitudes(std::max<int64_t>(-high, 0), -low,
                                                          high <= 0 && range.below_high, range.above_low)}));
  return b_.choice(parts);
}

}  // namespace awq
