#include "tokenizer/template/lexer.h"

#include <fmt/core.h>

#include <algorithm>
#include <cctype>

#include "tokenizer/template/text.h"
#include "tokenizer/unicode.h"

namespace awq::chat_template {
namespace {

using Kind = Token::Kind;

// \r\n and \r become \n; one newline at the end is dropped.
std::string normalize(std::string_view source) {
  std::string out;
  for (size_t i = 0; i < source.size(); ++i) {
    const bool pair = source[i] == '\r' && i + 1 < source.size() && source[i + 1] == '\n';
    if (!pair) out += source[i] == '\r' ? '\n' : source[i];
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(normalize(source)) {}

  std::vector<Token> run() {
    while (at_ < source_.size()) root();
    tokens_.push_back({Kind::kEnd, line_, ""});
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void fail_here(std::string message) const { throw SyntaxFailure{line_, std::move(message)}; }

  bool at(std::string_view word) const { return std::string_view(source_).substr(at_).starts_with(word); }

  void advance(size_t to) {
    line_ += static_cast<int>(std::count(source_.begin() + static_cast<std::ptrdiff_t>(at_),
                                         source_.begin() + static_cast<std::ptrdiff_t>(to), '\n'));
    at_ = to;
  }

  size_t skip_space(size_t from) const {
    size_t at = from;
    while (at < source_.size()) {
      size_t next = at;
      if (!is_space(next_code_point(source_, next))) break;
      at = next;
    }
    return at;
  }

  void emit(Kind kind, std::string text) { tokens_.push_back({kind, line_, std::move(text)}); }

  // Text up to `end`, where a tag with this sign begins.
  void emit_text(size_t end, char sign, bool is_output) {
    std::string_view text = std::string_view(source_).substr(at_, end - at_);
    if (sign == '-') {
      text = strip_space(text, Side::kRight);
    } else if (sign != '+' && !is_output) {
      const size_t newline = text.rfind('\n');
      const size_t line_begin = newline == std::string_view::npos ? 0 : newline + 1;
      const std::string_view last = text.substr(line_begin);
      if ((line_begin > 0 || line_starting_) && strip_space(last, Side::kBoth).empty())
        text = text.substr(0, line_begin);
    }
    if (!text.empty()) emit(Kind::kText, std::string(text));
    advance(end);
  }

  void root() {
    size_t open = at_;
    for (open = source_.find('{', at_); open != std::string::npos; open = source_.find('{', open + 1))
      if (open + 1 < source_.size() &&
          (source_[open + 1] == '{' || source_[open + 1] == '%' || source_[open + 1] == '#'))
        break;
    if (open == std::string::npos) {
      emit(Kind::kText, source_.substr(at_));
      advance(source_.size());
      return;
    }
    const char type = source_[open + 1];
    const char next = open + 2 < source_.size() ? source_[open + 2] : '\0';
    const char sign = next == '-' || next == '+' ? next : '\0';
    emit_text(open, sign, type == '{');
    advance(open + (sign ? 3 : 2));
    line_starting_ = false;
    if (type == '#')
      comment();
    else if (type == '%' && !raw())
      tag(Kind::kBlockBegin, Kind::kBlockEnd, "%}");
    else if (type == '{')
      tag(Kind::kOutputBegin, Kind::kOutputEnd, "}}");
  }

  // What follows the end of a block or comment: "-" takes all white space, else one newline goes.
  void after_block(char sign) {
    const size_t begin = at_;
    if (sign == '-')
      advance(skip_space(at_));
    else if (sign != '+' && at("\n"))
      advance(at_ + 1);
    line_starting_ = at_ > begin && source_[at_ - 1] == '\n';
  }

  void comment() {
    const size_t end = source_.find("#}", at_);
    if (end == std::string::npos) fail_here("a comment {# is not closed by #}");
    const char sign =
        end > at_ && (source_[end - 1] == '-' || source_[end - 1] == '+') ? source_[end - 1] : '\0';
    advance(end + 2);
    after_block(sign);
  }

  // {% raw %} ... {% endraw %}, when that is what stands here.
  bool raw() {
    size_t p = skip_space(at_);
    if (source_.compare(p, 3, "raw") != 0) return false;
    p = skip_space(p + 3);
    const bool strips = source_.compare(p, 3, "-%}") == 0;
    if (!strips && source_.compare(p, 2, "%}") != 0) return false;
    advance(strips ? skip_space(p + 3) : p + 2);
    for (size_t open = source_.find("{%", at_); open != std::string::npos;
         open = source_.find("{%", open + 2)) {
      size_t q = open + 2;
      const char sign = q < source_.size() && (source_[q] == '-' || source_[q] == '+') ? source_[q] : '\0';
      q = skip_space(q + (sign ? 1 : 0));
      if (source_.compare(q, 6, "endraw") != 0) continue;
      q = skip_space(q + 6);
      const char close = q < source_.size() && (source_[q] == '-' || source_[q] == '+') ? source_[q] : '\0';
      if (close) ++q;
      if (source_.compare(q, 2, "%}") != 0) continue;
      emit_text(open, sign, false);
      advance(q + 2);
      after_block(close);
      return true;
    }
    fail_here("{% raw %} is not closed by {% endraw %}");
  }

  void tag(Kind begin, Kind end, std::string_view close) {
    const int opened_at = line_;
    emit(begin, "");
    std::string open_brackets;
    for (;;) {
      advance(skip_space(at_));
      if (at_ >= source_.size()) {
        line_ = opened_at;
        fail_here(fmt::format("a tag is not closed by {}", close));
      }
      if (open_brackets.empty()) {
        const char sign = (source_[at_] == '-' || (source_[at_] == '+' && end == Kind::kBlockEnd)) &&
                                  source_.compare(at_ + 1, 2, close) == 0
                              ? source_[at_]
                              : '\0';
        if (sign || at(close)) {
          emit(end, "");
          advance(at_ + 2 + (sign ? 1 : 0));
          if (end == Kind::kBlockEnd) {
            after_block(sign);
          } else {
            const size_t closed = at_;
            if (sign == '-') advance(skip_space(at_));
            line_starting_ = at_ > closed && source_[at_ - 1] == '\n';
          }
          return;
        }
      }
      token(open_brackets);
    }
  }

  void token(std::string& open_brackets) {
    const char c = source_[at_];
    if (number()) return;
    size_t p = at_;
    const auto is_name = [](char32_t point) { return point == '_' || has_property_of_name(point); };
    while (p < source_.size()) {
      size_t next = p;
      if (!is_name(next_code_point(source_, next))) break;
      p = next;
    }
    if (p > at_) {
      const std::string name = source_.substr(at_, p - at_);
      if (!has_property(name, Property::kIdentifier))
        fail_here("invalid character in identifier '" + name + "'");
      emit(Kind::kName, name);
      advance(p);
      return;
    }
    if (c == '"' || c == '\'') return string(c);
    operation(open_brackets);
  }

  static bool has_property_of_name(char32_t c) {
    std::string one;
    append_utf8(one, c);
    return has_property(one, Property::kAlnum) || is_word(c);
  }

  // Digits with single underscores between them; `p` where they end.
  template <class Digit>
  size_t digits(size_t p, const Digit& digit) const {
    if (p >= source_.size() || !digit(source_[p])) return p;
    while (p < source_.size()) {
      if (digit(source_[p]))
        ++p;
      else if (source_[p] == '_' && p + 1 < source_.size() && digit(source_[p + 1]))
        p += 2;
      else
        break;
    }
    return p;
  }

  bool number() {
    const auto decimal = [](char c) { return c >= '0' && c <= '9'; };
    if (!decimal(source_[at_])) return false;
    size_t p = digits(at_, decimal);
    size_t q = p;
    bool real = false;
    if (at_ == 0 || source_[at_ - 1] != '.') {  // not in x.0.1
      if (q < source_.size() && source_[q] == '.')
        if (const size_t fraction = digits(q + 1, decimal); fraction > q + 1) q = fraction, real = true;
      if (q < source_.size() && (source_[q] == 'e' || source_[q] == 'E')) {
        const size_t sign =
            q + 1 < source_.size() && (source_[q + 1] == '+' || source_[q + 1] == '-') ? 1 : 0;
        if (const size_t exponent = digits(q + 1 + sign, decimal); exponent > q + 1 + sign)
          q = exponent, real = true;
      }
    }
    if (!real) q = integer_end(p);
    std::string text = source_.substr(at_, q - at_);
    text.erase(std::remove(text.begin(), text.end(), '_'), text.end());
    emit(real ? Kind::kFloat : Kind::kInteger, std::move(text));
    advance(q);
    return true;
  }

  // 0b, 0o and 0x; a decimal number has no leading zeros.
  size_t integer_end(size_t decimal_end) const {
    if (source_[at_] != '0') return decimal_end;
    const char base = at_ + 1 < source_.size() ? static_cast<char>(std::tolower(source_[at_ + 1])) : '\0';
    const auto is_digit = [base](char c) {
      return base == 'b'   ? c == '0' || c == '1'
             : base == 'o' ? c >= '0' && c <= '7'
                           : std::isxdigit(static_cast<unsigned char>(c)) != 0;
    };
    if (base == 'b' || base == 'o' || base == 'x') {
      size_t from = at_ + 2;
      if (from < source_.size() && source_[from] == '_') ++from;
      if (const size_t end = digits(from, is_digit); end > from) return end;
    }
    return digits(at_, [](char c) { return c == '0'; });
  }

  void string(char quote) {
    size_t p = at_ + 1;
    while (p < source_.size() && source_[p] != quote) p += source_[p] == '\\' ? 2 : 1;
    if (p >= source_.size()) fail_here("a string is not closed");
    const std::string value = unescape(std::string_view(source_).substr(at_ + 1, p - at_ - 1));
    emit(Kind::kString, value);
    advance(p + 1);
  }

  // Python's unicode-escape, after everything outside ASCII has become an escape itself.
  std::string unescape(std::string_view raw) const {
    std::string ascii;
    for (size_t at = 0; at < raw.size();) {
      const char32_t c = next_code_point(raw, at);
      if (c < 0x80)
        ascii += static_cast<char>(c);
      else
        ascii += c < 0x100 ? fmt::format("\\x{:02x}", static_cast<uint32_t>(c))
                           : fmt::format("\\U{:08x}", static_cast<uint32_t>(c));
    }
    std::string out;
    for (size_t i = 0; i < ascii.size(); ++i) {
      if (ascii[i] != '\\' || i + 1 == ascii.size()) {
        out += ascii[i];
        continue;
      }
      const char c = ascii[++i];
      constexpr std::string_view kFrom = "\\'\"abfnrtv", kTo = "\\'\"\a\b\f\n\r\t\v";
      if (const size_t known = kFrom.find(c); known != std::string_view::npos)
        out += kTo[known];
      else if (c == '\n')
        continue;
      else if (c == 'x' || c == 'u' || c == 'U')
        append_utf8(out, hexadecimal(ascii, i, c == 'x' ? 2 : c == 'u' ? 4 : 8));
      else if (c >= '0' && c <= '7')
        append_utf8(out, octal(ascii, i));
      else if (c == 'N')
        fail_here("the escape \\N{...} is not supported");
      else
        out += '\\', out += c;
    }
    return out;
  }

  char32_t hexadecimal(std::string_view text, size_t& i, size_t digits_wanted) const {
    char32_t value = 0;
    for (size_t n = 0; n < digits_wanted; ++n) {
      const auto c = static_cast<unsigned char>(i + 1 < text.size() ? text[i + 1] : '\0');
      if (!std::isxdigit(c)) fail_here("a string has a truncated escape");
      value = value * 16 + static_cast<char32_t>(std::isdigit(c) ? c - '0' : std::tolower(c) - 'a' + 10);
      ++i;
    }
    if (value > 0x10ffff || (value >= 0xd800 && value <= 0xdfff))
      fail_here("a string has an escape that is no character");
    return value;
  }

  static char32_t octal(std::string_view text, size_t& i) {
    char32_t value = static_cast<char32_t>(text[i] - '0');
    for (int n = 1; n < 3 && i + 1 < text.size() && text[i + 1] >= '0' && text[i + 1] <= '7'; ++n)
      value = value * 8 + static_cast<char32_t>(text[++i] - '0');
    return value;
  }

  void operation(std::string& open_brackets) {
    constexpr std::string_view kTwo[] = {"//", "**", "==", "!=", ">=", "<="};
    constexpr std::string_view kOne = "+-/*%~[](){}><=.:|,;";
    std::string text;
    for (const auto two : kTwo)
      if (at(two)) text = two;
    if (text.empty() && kOne.find(source_[at_]) != std::string_view::npos) text = source_.substr(at_, 1);
    if (text.empty())
      fail_here(fmt::format("unexpected character '{}'", source_.substr(at_, point_length(source_, at_))));
    if (text == "(" || text == "[" || text == "{") {
      open_brackets += text == "(" ? ')' : text == "[" ? ']' : '}';
    } else if (text == ")" || text == "]" || text == "}") {
      if (open_brackets.empty()) fail_here("unexpected '" + text + "'");
      if (open_brackets.back() != text[0])
        fail_here(fmt::format("unexpected '{}', expected '{}'", text, open_brackets.back()));
      open_brackets.pop_back();
    }
    emit(Kind::kOperator, text);
    advance(at_ + text.size());
  }

  std::string source_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source) { return Lexer(source).run(); }

}  // namespace awq::chat_template
