#include "tokenizer/split_regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/error.h"

namespace awq {
namespace {

// Backtracking steps of one match: enough for a megabyte of one character through a few nested repeats, and
// about a second of work for a pattern that explodes.
constexpr uint32_t kMatchLimit = 50'000'000;
constexpr uint32_t kHeapLimitKib = 256 * 1024;
constexpr size_t kJitStackStart = 32 * 1024, kJitStackMax = 64 * 1024 * 1024;

struct Scratch {  // per thread: PCRE2's match data and stack must not be shared
  pcre2_match_data* match = pcre2_match_data_create(1, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* stack = pcre2_jit_stack_create(kJitStackStart, kJitStackMax, nullptr);
  Scratch() {
    if (!match || !context || !stack) fail(Code::kNoMemory, "regular expressions: no memory for a match");
    pcre2_set_match_limit(context, kMatchLimit);
    pcre2_set_heap_limit(context, kHeapLimitKib);
    pcre2_jit_stack_assign(context, nullptr, stack);
  }
  ~Scratch() {
    pcre2_match_data_free(match);
    pcre2_match_context_free(context);
    pcre2_jit_stack_free(stack);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
};

Scratch& scratch() {
  thread_local Scratch s;
  return s;
}

std::string message_of(int error) {
  PCRE2_UCHAR buffer[256];
  pcre2_get_error_message(error, buffer, sizeof buffer);
  return reinterpret_cast<const char*>(buffer);
}

}  // namespace

struct SplitRegex::Compiled {
  pcre2_code* code = nullptr;
  bool jit = false;
  std::string pattern, where;
  ~Compiled() { pcre2_code_free(code); }
};

SplitRegex::SplitRegex(std::string_view pattern, const std::string& where)
    : compiled_(std::make_unique<Compiled>()) {
  compiled_->pattern = pattern;
  compiled_->where = where;
  const std::string translated = onig_to_pcre2(pattern, where);
  int error = 0;
  PCRE2_SIZE offset = 0;
  // MULTILINE: ^ and $ match at lines in Ruby syntax.
  compiled_->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                                  PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error,
                                  &offset, nullptr);
  if (!compiled_->code)
    fail(Code::kUnsupported, "{}: regular expression '{}' is not supported: {}", where, pattern,
         message_of(error));
  compiled_->jit = pcre2_jit_compile(compiled_->code, PCRE2_JIT_COMPLETE) == 0;
}

SplitRegex::~SplitRegex() = default;
SplitRegex::SplitRegex(SplitRegex&&) noexcept = default;
SplitRegex& SplitRegex::operator=(SplitRegex&&) noexcept = default;

std::optional<TextSpan> SplitRegex::find(std::string_view text, size_t from) const {
  Scratch& s = scratch();
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  const int rc =
      compiled_->jit
          ? pcre2_jit_match(compiled_->code, subject, text.size(), from, 0, s.match, s.context)
          : pcre2_match(compiled_->code, subject, text.size(), from, PCRE2_NO_UTF_CHECK, s.match, s.context);
  if (rc == PCRE2_ERROR_NOMATCH) return std::nullopt;
  if (rc < 0)
    fail(Code::kUnsupported,
         "{}: regular expression '{}' needs too much backtracking at byte {} of a text: {}", compiled_->where,
         compiled_->pattern, from, message_of(rc));
  const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(s.match);
  return TextSpan{bounds[0], bounds[1]};
}

std::string escape_regex(std::string_view literal) {
  static constexpr std::string_view kSpecial = "\\^$.[]|()?*+{}";
  std::string out;
  for (const char c : literal) {
    if (kSpecial.find(c) != std::string_view::npos) out += '\\';
    out += c;
  }
  return out;
}

}  // namespace awq
