// Extended grapheme clusters by the rules of UAX #29 (Unicode 15.1), which need a look at two neighbours and
// a little memory; ICU's BreakIterator would want the text in its own form.
#include <unicode/uchar.h>
#include <unicode/uscript.h>

#include "tokenizer/unicode.h"

namespace awq {
namespace {

UGraphemeClusterBreak grapheme_class(char32_t c) {
  return static_cast<UGraphemeClusterBreak>(
      u_getIntPropertyValue(static_cast<UChar32>(c), UCHAR_GRAPHEME_CLUSTER_BREAK));
}
bool is_pictographic(char32_t c) {
  return u_hasBinaryProperty(static_cast<UChar32>(c), UCHAR_EXTENDED_PICTOGRAPHIC);
}

// Rules GB6 to GB8: parts of one Hangul syllable.
bool in_one_syllable(UGraphemeClusterBreak a, UGraphemeClusterBreak b) {
  if (a == U_GCB_L) return b == U_GCB_L || b == U_GCB_V || b == U_GCB_LV || b == U_GCB_LVT;
  if (a == U_GCB_LV || a == U_GCB_V) return b == U_GCB_V || b == U_GCB_T;
  return (a == U_GCB_LVT || a == U_GCB_T) && b == U_GCB_T;
}

// Rule GB9c (Unicode 15.1): consonants of six Indic scripts, and the viramas that link them.
bool is_linking_script(char32_t c) {
  if (c < 0x900 || c > 0xd7f) return false;
  UErrorCode error = U_ZERO_ERROR;
  switch (uscript_getScript(static_cast<UChar32>(c), &error)) {
    case USCRIPT_DEVANAGARI:
    case USCRIPT_BENGALI:
    case USCRIPT_GUJARATI:
    case USCRIPT_ORIYA:
    case USCRIPT_TELUGU:
    case USCRIPT_MALAYALAM:
      return true;
    default:
      return false;
  }
}
bool has_syllabic_category(char32_t c, int32_t category) {
  return is_linking_script(c) &&
         u_getIntPropertyValue(static_cast<UChar32>(c), UCHAR_INDIC_SYLLABIC_CATEGORY) == category;
}
bool is_consonant(char32_t c) { return has_syllabic_category(c, U_INSC_CONSONANT); }
bool is_virama(char32_t c) { return has_syllabic_category(c, U_INSC_VIRAMA); }

// A consonant, then marks among which a virama is.
class Conjunct {
 public:
  explicit Conjunct(char32_t c) : consonant_(is_consonant(c)) {}
  bool continues_with(char32_t c) const { return linked_ && is_consonant(c); }
  void add(char32_t c, bool extends) {
    if (is_consonant(c)) {
      *this = Conjunct(c);
    } else if (consonant_ && is_virama(c)) {
      linked_ = true;
    } else if (!extends || c == 0x200c) {
      consonant_ = linked_ = false;
    }
  }

 private:
  bool consonant_, linked_ = false;
};

}  // namespace

size_t grapheme_end(std::string_view text, size_t pos) {
  char32_t c = next_code_point(text, pos);
  UGraphemeClusterBreak last = grapheme_class(c);
  bool picture = is_pictographic(c);  // a pictograph and its extensions so far (GB11)
  Conjunct conjunct(c);
  bool open_flag = last == U_GCB_REGIONAL_INDICATOR;
  while (pos < text.size()) {
    if (c < 0x80 && c != '\r' && static_cast<unsigned char>(text[pos]) < 0x80) return pos;
    size_t next = pos;
    const char32_t d = next_code_point(text, next);
    const UGraphemeClusterBreak here = grapheme_class(d);
    const bool control = last == U_GCB_CONTROL || last == U_GCB_CR || last == U_GCB_LF;
    const bool extends = here == U_GCB_EXTEND || here == U_GCB_ZWJ;
    const bool joins =
        (last == U_GCB_CR && here == U_GCB_LF) ||
        (!control &&
         (extends || here == U_GCB_SPACING_MARK ||
          (last == U_GCB_PREPEND && here != U_GCB_CONTROL && here != U_GCB_CR && here != U_GCB_LF) ||
          in_one_syllable(last, here) || conjunct.continues_with(d) ||
          (last == U_GCB_ZWJ && picture && is_pictographic(d)) ||
          (open_flag && here == U_GCB_REGIONAL_INDICATOR)));
    if (!joins) return pos;
    conjunct.add(d, extends);
    picture = extends ? picture : is_pictographic(d);
    open_flag = !open_flag && here == U_GCB_REGIONAL_INDICATOR;
    last = here;
    c = d;
    pos = next;
  }
  return pos;
}

}  // namespace awq
