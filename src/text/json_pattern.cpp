#include "text/json_pattern.h"

#include <bitset>
#include <string>

#include "base/error.h"

namespace awq {
namespace {

using Part = GrammarBuilder::Part;

constexpr int kMaxGroups = 32;  // within each other
constexpr int64_t kMaxRepetition = 10'000;

// Characters: those of ASCII one by one, all others together.
struct CharacterSet {
  std::bitset<128> ascii;
  bool others = false;

  void add(int low, int high) {
    for (int c = low; c <= high; ++c) ascii.set(static_cast<size_t>(c));
  }
  void add(const CharacterSet& more) {
    ascii |= more.ascii;
    others |= more.others;
  }
  CharacterSet complement() const { return {~ascii, !others}; }
};

// \d, \w, \s and their complements; false for other letters.
bool class_named(char letter, CharacterSet& set) {
  CharacterSet named;
  switch (letter | 0x20) {
    case 'd':
      named.add('0', '9');
      break;
    case 'w':
      named.add('0', '9'), named.add('A', 'Z'), named.add('a', 'z'), named.add('_', '_');
      break;
    case 's':
      named.add('\t', '\r'), named.add(' ', ' ');
      break;
    default:
      return false;
  }
  set.add(letter & 0x20 ? named : named.complement());
  return true;
}

class PatternParser {
 public:
  PatternParser(GrammarBuilder& builder, JsonRules& rules, std::string_view pattern)
      : b_(builder), rules_(rules), rest_(pattern) {}

  Part whole() {
    const bool from_start = take('^');
    Part body = alternatives(0);
    const bool to_end = take('$');
    if (!rest_.empty()) refuse(rest_.front() == ')' ? "an unopened group" : "an anchor in the middle");
    if (has_alternatives_ && (from_start || to_end))
      fail(Code::kUnsupported,
           "an anchor beside '|' at the outside of a pattern: put the alternatives in a group");
    const auto anything = [this] { return b_.repeat([this] { return rules_.character(); }, 0, -1); };
    if (!from_start) body = b_.sequence({anything(), body});
    if (!to_end) body = b_.sequence({body, anything()});
    return body;
  }

 private:
  [[noreturn]] void refuse(const char* what) const {
    fail(Code::kUnsupported, "the pattern holds {}, which is not supported", what);
  }
  bool take(char c) {
    if (rest_.empty() || rest_.front() != c) return false;
    rest_.remove_prefix(1);
    return true;
  }
  char next(const char* expected) {
    if (rest_.empty()) fail(Code::kBadArgument, "the pattern ends where {} is expected", expected);
    const char c = rest_.front();
    rest_.remove_prefix(1);
    return c;
  }

  Part alternatives(int depth) {
    if (depth > kMaxGroups) fail(Code::kBadArgument, "groups are nested more than {} deep", kMaxGroups);
    std::vector<Part> parts = {row(depth)};
    while (take('|')) {
      has_alternatives_ |= depth == 0;
      parts.push_back(row(depth));
    }
    return parts.size() == 1 ? parts.front() : b_.choice(parts);
  }

  Part row(int depth) {
    Part all = b_.nothing();
    while (!rest_.empty() && rest_.front() != '|' && rest_.front() != ')' && rest_.front() != '$') {
      const Part one = repeated(depth);
      b_.connect(all.out, one.in);
      all.out = one.out;
    }
    return all;
  }

  // An atom is read again for each repetition, since each needs states of its own.
  Part repeated(int depth) {
    const std::string_view atom_text = rest_;
    const Part once = atom(depth);
    const std::string_view after_atom = rest_;
    int64_t least = 1, most = 1;
    if (!quantifier(least, most)) return once;
    take('?');  // lazy: the same texts
    const std::string_view after = rest_;
    bool is_first = true;
    const Part all = b_.repeat(
        [&] {
          if (std::exchange(is_first, false)) return once;
          rest_ = atom_text;
          return atom(depth);
        },
        least, most);
    rest_ = after;
    if (!rest_.empty() && (rest_.front() == '*' || rest_.front() == '+' || rest_.front() == '?'))
      fail(Code::kBadArgument, "a quantifier follows another at '{}'", after_atom.substr(0, 8));
    return all;
  }

  bool quantifier(int64_t& least, int64_t& most) {
    if (take('*')) return least = 0, most = -1, true;
    if (take('+')) return least = 1, most = -1, true;
    if (take('?')) return least = 0, most = 1, true;
    if (!take('{')) return false;
    least = most = count();
    if (take(',')) most = !rest_.empty() && rest_.front() == '}' ? -1 : count();
    if (!take('}') || (most >= 0 && most < least))
      fail(Code::kBadArgument, "the pattern holds a wrong repetition");
    return true;
  }

  int64_t count() {
    int64_t n = -1;
    while (!rest_.empty() && rest_.front() >= '0' && rest_.front() <= '9' && n <= kMaxRepetition)
      n = std::max<int64_t>(n, 0) * 10 + (next("a digit") - '0');
    if (n < 0 || n > kMaxRepetition)
      fail(Code::kBadArgument, "the pattern repeats something: expected 0 to {} times", kMaxRepetition);
    return n;
  }

  Part atom(int depth) {
    const char c = next("a character");
    switch (c) {
      case '(':
        return group(depth);
      case '[':
        return characters(bracket());
      case '.': {
        CharacterSet line_ends;
        line_ends.add('\n', '\n'), line_ends.add('\r', '\r');
        return characters(line_ends.complement());
      }
      case '\\':
        return escape();
      case '^':
        refuse("an anchor in the middle");
      case '*':
      case '+':
      case '?':
      case '{':
      case '}':
      case ']':
        fail(Code::kBadArgument, "the pattern holds an unexpected '{}'", c);
      default:
        return static_cast<uint8_t>(c) < 0x80 ? characters(single(c)) : long_character(c);  // a part of UTF-8
    }
  }

  Part long_character(char first) {
    std::string bytes(1, first);
    while (!rest_.empty() && (rest_.front() & 0xc0) == 0x80) bytes += next("a byte");
    return b_.text(bytes);
  }

  Part group(int depth) {
    if (take('?') && !take(':')) refuse("a look-around or a named group");
    const Part inside = alternatives(depth + 1);
    if (!take(')')) {
      if (!rest_.empty()) refuse("an anchor in the middle");
      fail(Code::kBadArgument, "the pattern holds a group without an end");
    }
    return inside;
  }

  static CharacterSet single(char c) {
    CharacterSet set;
    set.add(c, c);
    return set;
  }

  Part escape() {
    const char c = next("a character after the backslash");
    CharacterSet set;
    if (class_named(c, set)) return characters(set);
    return characters(single(literal(c)));
  }

  // What \c stands for.
  char literal(char c) const {
    switch (c) {
      case 'n':
        return '\n';
      case 't':
        return '\t';
      case 'r':
        return '\r';
      case 'f':
        return '\f';
      default:
        break;
    }
    const bool is_word = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (is_word || static_cast<uint8_t>(c) >= 0x80)
      refuse("an escape of a letter, a digit or a Unicode character");
    return c;
  }

  CharacterSet bracket() {
    const bool negated = take('^');
    CharacterSet set;
    while (!take(']')) {
      char low = next("the end of a class");
      if (low == '\\') {
        const char escaped = next("a character after the backslash");
        if (class_named(escaped, set)) continue;
        low = literal(escaped);
      }
      if (static_cast<uint8_t>(low) >= 0x80) refuse("a class with members outside ASCII");
      char high = low;
      if (rest_.size() > 1 && rest_[0] == '-' && rest_[1] != ']') {
        take('-');
        high = next("the end of a range");
        if (high == '\\') high = literal(next("a character after the backslash"));
        if (static_cast<uint8_t>(high) >= 0x80) refuse("a class with members outside ASCII");
      }
      if (high < low)
        fail(Code::kBadArgument, "the pattern holds the range {}-{}, which is empty", low, high);
      set.add(low, high);
    }
    return negated ? set.complement() : set;
  }

  // As they are written in a JSON string.
  Part characters(const CharacterSet& set) {
    const Part part{b_.state(), b_.state()};
    for (int c = 0x20; c < 0x7f; ++c)
      if (set.ascii[static_cast<size_t>(c)] && c != '"' && c != '\\')
        b_.connect(part.in, static_cast<uint8_t>(c), static_cast<uint8_t>(c), part.out);
    const std::pair<char, char> escapes[] = {{'"', '"'},  {'\\', '\\'}, {'\n', 'n'}, {'\t', 't'},
                                             {'\r', 'r'}, {'\f', 'f'},  {'\b', 'b'}};
    const int32_t backslash = b_.state();
    b_.connect(part.in, '\\', '\\', backslash);
    for (const auto& [c, name] : escapes)
      if (set.ascii[static_cast<size_t>(c)])
        b_.connect(backslash, static_cast<uint8_t>(name), static_cast<uint8_t>(name), part.out);
    if (set.others) {
      const Part other = rules_.non_ascii();
      b_.connect(part.in, other.in);
      b_.connect(other.out, part.out);
    }
    return part;
  }

  GrammarBuilder& b_;
  JsonRules& rules_;
  std::string_view rest_;
  bool has_alternatives_ = false;
};

}  // namespace

Part json_pattern(GrammarBuilder& builder, JsonRules& rules, std::string_view pattern) {
  return PatternParser(builder, rules, pattern).whole();
}

}  // namespace awq
