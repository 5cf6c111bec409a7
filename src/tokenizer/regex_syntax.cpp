// Oniguruma (Ruby syntax, UTF-8) to PCRE2 (UTF, UCP). Sources: Oniguruma doc/RE, pcre2pattern(3).
// The differences that matter to published patterns:
//   \s \w \d \b   other Unicode definitions than PCRE2's (U+180E, combining marks)
//   \h \v         a hexadecimal digit and U+000B in Ruby, kinds of space in PCRE2
//   \p{Script}    the Script property; PCRE2 takes Script_Extensions unless told
//   x{2,3}+       one or more of x{2,3}; PCRE2 reads a possessive repeat
//   x{,3}         x{0,3}; literal text in PCRE2 10.42
#include <algorithm>
#include <array>
#include <cctype>
#include <vector>

#include "base/error.h"
#include "tokenizer/split_regex.h"

namespace awq {
namespace {

// Members of a class, to stand inside [ ].
constexpr std::string_view kSpace = R"(\x09-\x0d\x20\x85\p{Z})";
constexpr std::string_view kNotSpace =
    R"(\p{L}\p{M}\p{N}\p{P}\p{S}\p{Cf}\p{Cn}\p{Co}\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f)";
constexpr std::string_view kWord = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc})";
// Outside a class Oniguruma takes Latin-1 from another table, which has superscripts and fractions as well.
constexpr std::string_view kLoneWord = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\xb2\xb3\xb9\xbc-\xbe)";
constexpr std::string_view kHex = "0-9a-fA-F";

struct LongName {
  std::string_view long_name, short_name;
};
constexpr std::array<LongName, 37> kCategoryNames{{{"other", "C"},
                                                   {"control", "Cc"},
                                                   {"format", "Cf"},
                                                   {"unassigned", "Cn"},
                                                   {"privateuse", "Co"},
                                                   {"surrogate", "Cs"},
                                                   {"letter", "L"},
                                                   {"lowercaseletter", "Ll"},
                                                   {"modifierletter", "Lm"},
                                                   {"otherletter", "Lo"},
                                                   {"titlecaseletter", "Lt"},
                                                   {"uppercaseletter", "Lu"},
                                                   {"mark", "M"},
                                                   {"spacingmark", "Mc"},
                                                   {"enclosingmark", "Me"},
                                                   {"nonspacingmark", "Mn"},
                                                   {"number", "N"},
                                                   {"decimalnumber", "Nd"},
                                                   {"letternumber", "Nl"},
                                                   {"othernumber", "No"},
                                                   {"punctuation", "P"},
                                                   {"connectorpunctuation", "Pc"},
                                                   {"dashpunctuation", "Pd"},
                                                   {"closepunctuation", "Pe"},
                                                   {"finalpunctuation", "Pf"},
                                                   {"initialpunctuation", "Pi"},
                                                   {"otherpunctuation", "Po"},
                                                   {"openpunctuation", "Ps"},
                                                   {"symbol", "S"},
                                                   {"currencysymbol", "Sc"},
                                                   {"modifiersymbol", "Sk"},
                                                   {"mathsymbol", "Sm"},
                                                   {"othersymbol", "So"},
                                                   {"separator", "Z"},
                                                   {"lineseparator", "Zl"},
                                                   {"paragraphseparator", "Zp"},
                                                   {"spaceseparator", "Zs"}}};

std::string property_name(std::string_view name) {
  std::string key;
  for (const char c : name)
    if (c != ' ' && c != '_' && c != '-')
      key += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  for (const LongName& n : kCategoryNames) {
    std::string lower(n.short_name);
    lower[0] = static_cast<char>(std::tolower(static_cast<unsigned char>(lower[0])));
    if (key == n.long_name || key == lower) return std::string(n.short_name);
  }
  if (key == "any" || key == "alphabetic" || key == "uppercase" || key == "lowercase") return key;
  return "sc:" + key;
}

class Translator {
 public:
  Translator(std::string_view pattern, const std::string& where) : in_(pattern), where_(where) {}

  std::string run() {
    while (pos_ < in_.size()) step();
    return std::move(out_);
  }

 private:
  [[noreturn]] void refuse(std::string_view what) const {
    fail(Code::kUnsupported, "{}: regular expression '{}': {} at byte {} is not supported", where_, in_, what,
         pos_);
  }
  bool at(std::string_view text) const { return in_.substr(pos_).starts_with(text); }
  void copy(size_t n) {
    out_ += in_.substr(pos_, n);
    pos_ += std::min(n, in_.size() - pos_);
  }

  void step() {
    switch (in_[pos_]) {
      case '\\':
        atom_ = out_.size();
        escape(false);
        break;
      case '[':
        atom_ = out_.size();
        char_class();
        break;
      case '(':
        open_group();
        break;
      case ')':
        if (!groups_.empty()) {
          atom_ = groups_.back();
          groups_.pop_back();
        }
        copy(1);
        break;
      case '{':
        interval();
        break;
      case '*':
      case '+':
      case '?':
        copy(1);
        if (at("?") || at("+")) copy(1);
        break;
      default: {
        atom_ = out_.size();
        copy(1);
        while (pos_ < in_.size() && (static_cast<unsigned char>(in_[pos_]) & 0xc0) == 0x80) copy(1);
      }
    }
  }

  void open_group() {
    groups_.push_back(out_.size());
    const size_t start = pos_;
    copy(1);
    if (!at("?")) {
      if (at("*")) refuse("a verb '(*'");
      return;
    }
    copy(1);
    for (const std::string_view plain : {"<=", "<!", ":", "=", "!", ">"})
      if (at(plain)) return copy(plain.size());
    if (at("<")) {
      while (pos_ < in_.size() && in_[pos_] != '>') copy(1);
      return copy(1);
    }
    option_flags(start);
  }

  // (?i) or (?i-m:...). Ruby's m lets '.' match newlines, which PCRE2 calls s.
  void option_flags(size_t start) {
    while (pos_ < in_.size() && in_[pos_] != ':' && in_[pos_] != ')') {
      const char flag = in_[pos_];
      if (flag != 'i' && flag != 'm' && flag != '-') refuse("a group option");
      out_ += flag == 'm' ? 's' : flag;
      ++pos_;
    }
    // Ruby ends the alternative at a bare (?i) that is not at the start; PCRE2 does not.
    if (at(")") && start != 0) refuse("an option in the middle of the pattern");
    if (at(":")) copy(1);
  }

  void interval() {
    size_t p = pos_ + 1;
    const auto digits = [&] {
      const size_t from = p;
      while (p < in_.size() && std::isdigit(static_cast<unsigned char>(in_[p]))) ++p;
      return in_.substr(from, p - from);
    };
    const std::string_view low = digits();
    const bool comma = p < in_.size() && in_[p] == ',';
    if (comma) ++p;
    const std::string_view high = comma ? digits() : std::string_view();
    if (p >= in_.size() || in_[p] != '}' || (low.empty() && high.empty())) {  // no repeat: a literal brace
      atom_ = out_.size();
      out_ += "\\{";
      ++pos_;
      return;
    }
    out_ += '{';
    out_ += low.empty() ? "0" : low;
    if (comma) out_ += ',';
    out_ += high;
    out_ += '}';
    pos_ = p + 1;
    if (at("+")) {
      out_.insert(atom_, "(?:");
      out_ += ")+";
      ++pos_;
    } else if (at("?")) {
      if (!comma) refuse("'{n}?'");
      copy(1);
    }
  }

  void set(std::string_view members, bool negated, bool in_class) {
    if (in_class) {
      out_ += members;
    } else {
      out_ += negated ? "[^" : "[";
      out_ += members;
      out_ += ']';
    }
  }

  void escape(bool in_class) {
    if (pos_ + 1 >= in_.size()) refuse("a backslash at the end");
    const char c = in_[pos_ + 1];
    if (c == 'p' || c == 'P') return property(in_class);
    pos_ += 2;
    const std::string word = "[" + std::string(kLoneWord) + "]";
    switch (c) {
      case 's':
        return set(kSpace, false, in_class);
      case 'S':
        return in_class ? set(kNotSpace, false, true) : set(kSpace, true, false);
      case 'w':
        return set(in_class ? kWord : kLoneWord, false, in_class);
      case 'd':
        out_ += "\\p{Nd}";
        return;
      case 'D':
        out_ += "\\P{Nd}";
        return;
      case 'h':
        return set(kHex, false, in_class);
      case 'v':
        out_ += "\\x0b";
        return;
      case 'b':
        if (in_class) {
          out_ += "\\x08";
        } else {
          out_ += "(?:(?<=" + word + ")(?!" + word + ")|(?<!" + word + ")(?=" + word + "))";
        }
        return;
      case 'n':
      case 't':
      case 'r':
      case 'f':
      case 'a':
      case 'e':
        out_ += {'\\', c};
        return;
      case 'x':
      case 'u':
        return code_point(c);
      default:
        break;
    }
    if (!in_class) {
      if (c == 'W') return set(kLoneWord, true, false);
      if (c == 'H') return set(kHex, true, false);
      if (c == 'B') {
        out_ += "(?:(?<=" + word + ")(?=" + word + ")|(?<!" + word + ")(?!" + word + "))";
        return;
      }
      if (c == 'A' || c == 'z' || c == 'Z' || c == 'R' || (c >= '1' && c <= '9')) {
        out_ += {'\\', c};
        return;
      }
    }
    if (std::isalnum(static_cast<unsigned char>(c))) {
      pos_ -= 2;
      refuse(std::string("the escape '\\") + c + "'");
    }
    if (static_cast<unsigned char>(c) < 0x80) out_ += '\\';
    out_ += c;
  }

  // \x7f, \x{1F600}, é
  void code_point(char kind) {
    std::string digits;
    if (kind == 'x' && at("{")) {
      const size_t end = in_.find('}', pos_);
      if (end == std::string_view::npos) refuse("'\\x{' without '}'");
      digits = in_.substr(pos_ + 1, end - pos_ - 1);
      pos_ = end + 1;
    } else {
      const size_t most = kind == 'x' ? 2 : 4;
      while (digits.size() < most && pos_ < in_.size() &&
             std::isxdigit(static_cast<unsigned char>(in_[pos_])))
        digits += in_[pos_++];
      if (kind == 'x' && digits.size() == 2 && digits[0] >= '8') refuse("a byte escape beyond ASCII");
      if (kind == 'u' && digits.size() != 4) refuse("an incomplete '\\u'");
    }
    if (digits.empty()) refuse("an empty code point");
    out_ += "\\x{" + digits + "}";
  }

  void property(bool) {
    const bool upper = in_[pos_ + 1] == 'P';
    if (pos_ + 2 >= in_.size() || in_[pos_ + 2] != '{') refuse("'\\p' without '{'");
    const size_t end = in_.find('}', pos_);
    if (end == std::string_view::npos) refuse("'\\p{' without '}'");
    std::string_view name = in_.substr(pos_ + 3, end - pos_ - 3);
    const bool caret = name.starts_with('^');
    if (caret) name.remove_prefix(1);
    out_ += upper != caret ? "\\P{" : "\\p{";
    out_ += property_name(name) + "}";
    pos_ = end + 1;
  }

  void char_class() {
    copy(1);
    if (at("^")) copy(1);
    if (at("]")) {  // literal at the start
      out_ += '\\';
      copy(1);
    }
    while (!at("]")) {
      if (pos_ >= in_.size()) refuse("'[' without ']'");
      if (at("&&[")) return intersection();
      if (in_[pos_] == '[') refuse("a class inside a class");
      if (at("&&")) refuse("an intersection of classes");
      if (in_[pos_] == '\\') {
        escape(true);
      } else {
        copy(1);
      }
    }
    copy(1);
  }

  // [a&&[b]] is what matches [b] and [a].
  void intersection() {
    const std::string left = out_.substr(atom_) + "]";
    if (left.starts_with("[^")) refuse("an intersection inside a negated class");
    out_.resize(atom_);
    pos_ += 2;
    const size_t start = atom_;
    char_class();
    const std::string right = out_.substr(start);
    if (!right.starts_with('[') || !at("]")) refuse("an intersection of more than two classes");
    ++pos_;
    out_.resize(start);
    out_ += "(?:(?=" + right + ")" + left + ")";
  }

  std::string_view in_;
  const std::string& where_;
  std::string out_;
  size_t pos_ = 0;
  size_t atom_ = 0;             // where in out_ the last atom starts
  std::vector<size_t> groups_;  // where in out_ the open groups start
};

}  // namespace

std::string onig_to_pcre2(std::string_view pattern, const std::string& where) {
  return Translator(pattern, where).run();
}

}  // namespace awq
