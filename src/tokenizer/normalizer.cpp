#include "tokenizer/normalizer.h"

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

}  // namespace

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
  }
}

std::string Normalizer::apply(std::string_view text) const {
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
      case NormalizerKind::kByteLevel:
        current = to_byte_level(current);
        break;
    }
  }
  return current;
}

}  // namespace awq
