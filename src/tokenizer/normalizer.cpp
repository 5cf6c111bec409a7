#include "tokenizer/normalizer.h"

#include <utility>

#include "tokenizer/byte_level.h"
#include "tokenizer/unicode.h"

namespace awq {
namespace {

std::string_view strip(std::string_view text, bool left, bool right) {
  size_t begin = 0, end = text.size();
  while (left && begin < end) {
    size_t next = begin;
    if (!is_white_space(next_code_point(text, next))) break;
    begin = next;
  }
  while (right && end > begin) {
    size_t previous = end;
    if (!is_white_space(previous_code_point(text, previous))) break;
    end = previous;
  }
  return text.substr(begin, end - begin);
}

template <class Keep>
std::string filtered(std::string_view text, Keep keep) {
  std::string out;
  out.reserve(text.size());
  for (size_t pos = 0; pos < text.size();) {
    const size_t begin = pos;
    if (keep(next_code_point(text, pos))) out += text.substr(begin, pos - begin);
  }
  return out;
}

// As `tokenizers` applies the rules of a SentencePiece model: to short grapheme clusters as a whole, else to
// each code point; of the rules that match the beginning the shortest replaces all.
std::string apply_charsmap(const Charsmap& charsmap, std::string_view text) {
  constexpr size_t kShortCluster = 6;  // bytes
  std::string out;
  out.reserve(text.size());
  for (size_t pos = 0; pos < text.size();) {
    const size_t end = grapheme_end(text, pos);
    if (end - pos < kShortCluster) {
      if (const auto match = charsmap.shortest(text.substr(pos, end - pos))) {
        out += match->replacement;
        pos = end;
        continue;
      }
    }
    while (pos < end) {
      const std::string_view character = text.substr(pos, utf8_length(text[pos]));
      const auto match = charsmap.shortest(character);
      out += match ? match->replacement : character;
      pos += character.size();
    }
  }
  return out;
}

// Cleaning for neural machine translation: control characters go, rare kinds of space become spaces.
std::string apply_nmt(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t pos = 0; pos < text.size();) {
    const size_t begin = pos;
    const char32_t c = next_code_point(text, pos);
    if ((c >= 0x1 && c <= 0x8) || c == 0xb || (c >= 0xe && c <= 0x1f) || c == 0x7f || c == 0x8f || c == 0x9f)
      continue;
    const bool space = c == 0x9 || c == 0xa || c == 0xc || c == 0xd || c == 0x1680 ||
                       (c >= 0x200b && c <= 0x200f) || c == 0x2028 || c == 0x2029 || c == 0x2581 ||
                       c == 0xfeff || c == 0xfffd;
    out += space ? " " : text.substr(begin, pos - begin);
  }
  return out;
}

bool is_chinese(char32_t c) {  // the blocks that BERT sets apart
  return (c >= 0x4e00 && c <= 0x9fff) || (c >= 0x3400 && c <= 0x4dbf) || (c >= 0x20000 && c <= 0x2a6df) ||
         (c >= 0x2a700 && c <= 0x2b81f) || (c >= 0x2b920 && c <= 0x2ceaf) || (c >= 0xf900 && c <= 0xfaff) ||
         (c >= 0x2f800 && c <= 0x2fa1f);
}

std::string apply_bert(const NormalizerStep& s, std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t pos = 0; pos < text.size();) {
    const size_t begin = pos;
    const char32_t c = next_code_point(text, pos);
    const bool control = c != '\t' && c != '\n' && c != '\r' && is_other(c);
    if (s.clean_text && (c == 0 || c == 0xfffd || control)) continue;
    const bool apart = s.chinese_chars && is_chinese(c);
    if (apart) out += ' ';
    out += s.clean_text && is_white_space(c) ? " " : text.substr(begin, pos - begin);
    if (apart) out += ' ';
  }
  if (s.strip_accents)
    out =
        filtered(normalize_unicode(out, NormalForm::kNfd), [](char32_t c) { return !is_nonspacing_mark(c); });
  return s.lowercase ? lowercase_unicode(out) : out;
}

constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // U+2581

}  // namespace

std::string sentencepiece_normalize(std::string_view text, const SentencePieceRules& rules,
                                    const Charsmap& charsmap, const ByteTrie& user_defined, bool at_start) {
  const auto next = [&]() -> Charsmap::Match {
    if (const size_t own = user_defined.longest(text, 0).first) return {own, text.substr(0, own)};
    if (const auto match = charsmap.longest(text)) return *match;
    // A rule that ends inside a character leaves its rest behind; each such byte becomes U+FFFD.
    const size_t length = valid_utf8_at(text, 0);
    if (length == 0) return {1, kReplacementCharacter};
    return {length, text.substr(0, length)};
  };
  while (rules.remove_extra_whitespaces && !text.empty()) {
    const Charsmap::Match m = next();
    if (m.replacement != " ") break;
    text.remove_prefix(m.length);
  }
  if (text.empty()) return {};
  const std::string_view space = rules.escape_whitespaces ? kSpaceMark : " ";
  const bool dummy = rules.add_dummy_prefix && (at_start || !rules.prefix_first_only);
  std::string out;
  out.reserve(text.size() + text.size() / 2);
  if (dummy && !rules.whitespace_as_suffix) out += space;
  bool after_space = rules.remove_extra_whitespaces;
  while (!text.empty()) {
    const Charsmap::Match m = next();
    std::string_view piece = m.replacement;
    while (after_space && piece.starts_with(' ')) piece.remove_prefix(1);
    for (const char c : piece) {
      if (c == ' ') {
        out += space;
      } else {
        out += c;
      }
    }
    if (!piece.empty()) after_space = piece.ends_with(' ');
    if (!rules.remove_extra_whitespaces) after_space = false;
    text.remove_prefix(m.length);
  }
  while (rules.remove_extra_whitespaces && out.ends_with(space)) out.resize(out.size() - space.size());
  if (dummy && rules.whitespace_as_suffix) out += space;
  return out;
}

std::string replace_all(std::string_view text, const std::string& literal, const SplitRegex* regex,
                        std::string_view content) {
  std::string out;
  size_t done = 0, from = 0;
  while (from <= text.size()) {
    TextSpan match{};
    if (regex) {
      const auto found = regex->find(text, from);
      if (!found) break;
      match = *found;
    } else {
      const size_t found = literal.empty() ? std::string_view::npos : text.find(literal, from);
      if (found == std::string_view::npos) break;
      match = {found, found + literal.size()};
    }
    out += text.substr(done, match.begin - done);
    out += content;
    done = match.end;
    from = match.end;
    if (match.empty()) from += from < text.size() ? utf8_length(text[from]) : 1;
  }
  out += text.substr(done);
  return out;
}

Normalizer::Normalizer(const std::vector<NormalizerStep>& steps, const std::string& where) {
  for (const NormalizerStep& s : steps) {
    Step& step = steps_.emplace_back();
    step.spec = s;
    if (s.kind == NormalizerKind::kReplace && s.pattern.is_regex)
      step.pattern.emplace_back(s.pattern.text, where);
    step.charsmap = Charsmap(s.charsmap, where);
    step.spec.charsmap = {};  // parsed; large
    std::vector<std::pair<std::string_view, int32_t>> own;
    for (const std::string& symbol : s.rules.user_defined) own.emplace_back(symbol, 0);
    step.user_defined = ByteTrie(std::move(own));
  }
}

std::string Normalizer::apply(std::string_view text, bool at_start) const {
  std::string current(text);
  for (const Step& step : steps_) {
    const NormalizerStep& s = step.spec;
    switch (s.kind) {
      case NormalizerKind::kNfc:
        current = normalize_unicode(current, NormalForm::kNfc);
        break;
      case NormalizerKind::kNfd:
        current = normalize_unicode(current, NormalForm::kNfd);
        break;
      case NormalizerKind::kNfkc:
        current = normalize_unicode(current, NormalForm::kNfkc);
        break;
      case NormalizerKind::kNfkd:
        current = normalize_unicode(current, NormalForm::kNfkd);
        break;
      case NormalizerKind::kLowercase:
        current = lowercase_unicode(current);
        break;
      case NormalizerKind::kPrepend:
        if (!current.empty()) current.insert(0, s.content);
        break;
      case NormalizerKind::kReplace:
        current = replace_all(current, s.pattern.text, step.pattern.empty() ? nullptr : &step.pattern[0],
                              s.content);
        break;
      case NormalizerKind::kStrip:
        current = std::string(strip(current, s.strip_left, s.strip_right));
        break;
      case NormalizerKind::kStripAccents:
        current = filtered(current, [](char32_t c) { return !is_mark(c); });
        break;
      case NormalizerKind::kByteLevel:
        current = to_byte_level(current);
        break;
      case NormalizerKind::kPrecompiled:
        current = apply_charsmap(step.charsmap, current);
        break;
      case NormalizerKind::kNmt:
        current = apply_nmt(current);
        break;
      case NormalizerKind::kBert:
        current = apply_bert(s, current);
        break;
      case NormalizerKind::kSentencePiece:
        current = sentencepiece_normalize(current, s.rules, step.charsmap, step.user_defined, at_start);
        break;
    }
  }
  return current;
}

}  // namespace awq
