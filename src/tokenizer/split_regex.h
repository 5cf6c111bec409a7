// Regular expressions of pre-tokenizers. Published tokenizer.json files use Oniguruma's Ruby syntax; PCRE2
// runs them, after the places where the two differ are rewritten (onig_to_pcre2).
#pragma once
#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace awq {

struct TextSpan {
  size_t begin, end;  // bytes
  bool empty() const { return begin == end; }
};

// kUnsupported where the meaning cannot be kept (nested classes, intersections, unknown escapes).
std::string onig_to_pcre2(std::string_view pattern, const std::string& where);

class SplitRegex {
 public:
  // kUnsupported names the pattern when PCRE2 does not understand it.
  SplitRegex(std::string_view pattern, const std::string& where);
  ~SplitRegex();
  SplitRegex(SplitRegex&&) noexcept;
  SplitRegex& operator=(SplitRegex&&) noexcept;

  // First match that starts at or after `from` in valid UTF-8. Thread-safe. kUnsupported when the pattern
  // backtracks beyond the match limit.
  std::optional<TextSpan> find(std::string_view text, size_t from) const;

 private:
  struct Compiled;
  std::unique_ptr<Compiled> compiled_;
};

std::string escape_regex(std::string_view literal);

}  // namespace awq
