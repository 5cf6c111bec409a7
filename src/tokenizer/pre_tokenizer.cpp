#include "tokenizer/pre_tokenizer.h"

#include <algorithm>
#include <utility>

#include "tokenizer/byte_level.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/unicode.h"

namespace awq {
namespace {

using Piece = PreTokenizer::Piece;

// GPT-2's words (Radford et al. 2019, encoder.py).
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// Matches and the gaps between them, in order, covering the text.
struct Part {
  TextSpan span;
  bool is_match;
};

class Parts {
 public:
  explicit Parts(std::string_view text) : text_(text) {}
  void match(size_t begin, size_t end) {
    if (begin != done_) list_.push_back({{done_, begin}, false});
    list_.push_back({{begin, end}, true});
    done_ = end;
  }
  std::vector<Part> finish() {
    if (done_ != text_.size()) list_.push_back({{done_, text_.size()}, false});
    return std::move(list_);
  }

 private:
  std::string_view text_;
  size_t done_ = 0;
  std::vector<Part> list_;
};

// Calls part(begin, end, is_match) for the matches and what is between them, in order.
template <class Take>
void each_regex_part(const SplitRegex& regex, std::string_view text, Take take) {
  size_t from = 0, done = 0, last_end = std::string_view::npos;
  while (from <= text.size()) {
    const auto found = regex.find(text, from);
    if (!found) break;
    if (found->empty() && found->end == last_end) {  // an empty match right behind a match does not count
      from += from < text.size() ? utf8_length(text[from]) : 1;
      continue;
    }
    if (found->begin != done) take(done, found->begin, false);
    take(found->begin, found->end, true);
    from = done = last_end = found->end;
  }
  if (done != text.size()) take(done, text.size(), false);
}

std::vector<Part> regex_parts(const SplitRegex& regex, std::string_view text) {
  std::vector<Part> parts;
  each_regex_part(regex, text, [&](size_t begin, size_t end, bool is_match) {
    parts.push_back({{begin, end}, is_match});
  });
  return parts;
}

template <class Predicate>
std::vector<Part> char_parts(std::string_view text, Predicate is_match) {
  Parts parts(text);
  for (size_t pos = 0; pos < text.size();) {
    const size_t begin = pos;
    if (is_match(next_code_point(text, pos))) parts.match(begin, pos);
  }
  return parts.finish();
}

// A run of parts, each opened by `opens` (or the first one), becomes one part.
template <class Opens>
std::vector<Part> merge_parts(const std::vector<Part>& parts, Opens opens) {
  std::vector<Part> out;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (out.empty() || opens(i)) {
      out.push_back(parts[i]);
    } else {
      out.back().span.end = parts[i].span.end;
    }
  }
  return out;
}

std::vector<Part> behave(std::vector<Part> parts, SplitBehavior behavior) {
  const auto match_at = [&](size_t i) { return i < parts.size() && parts[i].is_match; };
  switch (behavior) {
    case SplitBehavior::kIsolated:
      return parts;
    case SplitBehavior::kRemoved:
      std::erase_if(parts, [](const Part& p) { return p.is_match; });
      return parts;
    case SplitBehavior::kContiguous:
      return merge_parts(parts, [&](size_t i) { return match_at(i) != match_at(i - 1); });
    case SplitBehavior::kMergedWithPrevious:  // a match joins what is before it, unless that is a match as
                                              // well
      return merge_parts(parts, [&](size_t i) { return !match_at(i) || match_at(i - 1); });
    case SplitBehavior::kMergedWithNext:
      return merge_parts(parts, [&](size_t i) { return !match_at(i - 1) || match_at(i); });
  }
  return parts;
}

auto is_character(const std::string& character) {
  size_t pos = 0;
  const char32_t wanted = next_code_point(character, pos);
  return [wanted](char32_t c) { return c == wanted; };
}

std::vector<Part> fixed_parts(std::string_view text, int64_t length) {
  std::vector<Part> out;
  for (size_t pos = 0; pos < text.size();) {
    const size_t begin = pos;
    for (int64_t i = 0; i < length && pos < text.size(); ++i) pos += utf8_length(text[pos]);
    out.push_back({{begin, pos}, true});
  }
  return out;
}

// As `tokenizers` cuts by scripts: kana count as Han, spaces and code points without a script as what is
// before them, and what stands before the first script is lost.
std::vector<Part> script_parts(std::string_view text) {
  constexpr int kAny = -1;
  std::vector<Part> out;
  int last = kAny;
  for (size_t pos = 0; pos < text.size();) {
    const size_t begin = pos;
    const char32_t c = next_code_point(text, pos);
    int script = c == ' ' ? kAny : script_of(c);
    if (script == kScriptUnknown) script = kAny;
    if (script == kScriptHiragana || script == kScriptKatakana || c == 0x30fc) script = kScriptHan;
    if (script != kAny && script != last) out.push_back({{begin, pos}, true});
    if (script != kAny) last = script;
    if (!out.empty()) out.back().span.end = pos;
  }
  return out;
}

Piece part_piece(const Piece& piece, const Part& part) {
  return {piece.text.substr(part.span.begin, part.span.end - part.span.begin),
          piece.at_start && part.span.begin == 0};
}

void append_parts(const std::vector<Part>& parts, const Piece& piece, std::vector<Piece>& out) {
  for (const Part& p : parts) {
    if (!p.span.empty()) out.push_back(part_piece(piece, p));
  }
}

// The parts as pieces at once, where matches and gaps are treated alike.
void append_isolated(const SplitRegex& regex, const Piece& piece, std::vector<Piece>& out) {
  each_regex_part(regex, piece.text, [&](size_t begin, size_t end, bool) {
    if (begin != end) out.push_back({piece.text.substr(begin, end - begin), piece.at_start && begin == 0});
  });
}

bool needs_prefix(const PreTokenizerStep& s, bool at_start, std::string_view text) {
  if (text.starts_with(s.replacement)) return false;
  return s.prepend_scheme == PrependScheme::kAlways ||
         (s.prepend_scheme == PrependScheme::kFirst && at_start);
}

}  // namespace

PreTokenizer::PreTokenizer(const std::vector<PreTokenizerStep>& steps, const std::string& where) {
  for (const PreTokenizerStep& s : steps) {
    Step& step = steps_.emplace_back();
    step.spec = s;
    switch (s.kind) {
      case PreTokenizerKind::kByteLevel:
        if (s.use_regex) step.regex.emplace_back(kGpt2Pattern, where);
        break;
      case PreTokenizerKind::kSplit:
        step.regex.emplace_back(s.pattern.is_regex ? s.pattern.text : escape_regex(s.pattern.text), where);
        break;
      default:
        break;
    }
  }
  byte_level_ = !steps.empty() && steps.back().kind == PreTokenizerKind::kByteLevel;
}

std::vector<Piece> PreTokenizer::split(std::string_view text, bool at_start,
                                       std::deque<std::string>& owned) const {
  std::vector<Piece> pieces, next;
  if (!text.empty()) pieces.push_back({text, at_start});
  for (size_t i = 0; i < steps_.size(); ++i) {
    const PreTokenizerStep& s = steps_[i].spec;
    if (byte_level_ && i + 1 == steps_.size() && !s.use_regex && !s.add_prefix_space)
      break;  // changes no piece
    next.clear();
    next.reserve(pieces.size() * 2);
    for (const Piece& piece : pieces) apply(steps_[i], i + 1 == steps_.size(), piece, next, owned);
    std::swap(pieces, next);
  }
  return pieces;
}

void PreTokenizer::apply(const Step& step, bool last, const Piece& piece, std::vector<Piece>& out,
                         std::deque<std::string>& owned) const {
  const PreTokenizerStep& s = step.spec;
  switch (s.kind) {
    case PreTokenizerKind::kByteLevel: {
      Piece p = piece;
      if (s.add_prefix_space && !p.text.starts_with(' '))
        p.text = owned.emplace_back(" " + std::string(p.text));
      const size_t first = out.size();
      if (s.use_regex) {
        append_isolated(step.regex[0], p, out);
      } else {
        out.push_back(p);
      }
      if (last) return;  // BPE takes the raw bytes
      for (size_t i = first; i < out.size(); ++i)
        out[i].text = owned.emplace_back(to_byte_level(out[i].text));
      return;
    }
    case PreTokenizerKind::kSplit: {
      if (s.behavior == SplitBehavior::kIsolated) return append_isolated(step.regex[0], piece, out);
      std::vector<Part> parts = regex_parts(step.regex[0], piece.text);
      if (s.invert)
        for (Part& p : parts) p.is_match = !p.is_match;
      return append_parts(behave(std::move(parts), s.behavior), piece, out);
    }
    case PreTokenizerKind::kDigits: {
      const auto behavior = s.individual_digits ? SplitBehavior::kIsolated : SplitBehavior::kContiguous;
      return append_parts(behave(char_parts(piece.text, is_number), behavior), piece, out);
    }
    case PreTokenizerKind::kWhitespace:  // runs of word characters, runs of what is neither word nor space
      for (const Part& word : behave(char_parts(piece.text, is_word), SplitBehavior::kContiguous)) {
        const Piece p = part_piece(piece, word);
        append_parts(behave(char_parts(p.text, is_white_space), SplitBehavior::kRemoved), p, out);
      }
      return;
    case PreTokenizerKind::kWhitespaceSplit:
      return append_parts(behave(char_parts(piece.text, is_white_space), SplitBehavior::kRemoved), piece,
                          out);
    case PreTokenizerKind::kPunctuation:
      return append_parts(behave(char_parts(piece.text, is_punctuation), s.behavior), piece, out);
    case PreTokenizerKind::kBert:
      for (const Part& word : behave(char_parts(piece.text, is_white_space), SplitBehavior::kRemoved)) {
        const Piece p = part_piece(piece, word);
        append_parts(char_parts(p.text, is_punctuation), p, out);
      }
      return;
    case PreTokenizerKind::kDelimiter:
      return append_parts(
          behave(char_parts(piece.text, is_character(s.replacement)), SplitBehavior::kRemoved), piece, out);
    case PreTokenizerKind::kFixedLength:
      return append_parts(fixed_parts(piece.text, s.length), piece, out);
    case PreTokenizerKind::kUnicodeScripts:
      return append_parts(script_parts(piece.text), piece, out);
    case PreTokenizerKind::kMetaspace: {
      std::string& text = owned.emplace_back(replace_all(piece.text, " ", nullptr, s.replacement));
      if (needs_prefix(s, piece.at_start, text)) text.insert(0, s.replacement);
      const Piece p{text, piece.at_start};
      if (!s.split) return out.push_back(p);
      return append_parts(
          behave(char_parts(p.text, is_character(s.replacement)), SplitBehavior::kMergedWithNext), p, out);
    }
  }
}

}  // namespace awq
