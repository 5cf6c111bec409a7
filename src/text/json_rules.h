// The pieces of JSON (RFC 8259) as automata, narrower than the standard where a model could go on without an
// end or a reader would trip: white space comes in short runs, numbers have at most 18 digits on each side of
// the point, \u escapes name no surrogates.
#pragma once
#include <cstdint>
#include <optional>
#include <vector>

#include "text/grammar.h"

namespace awq {

// From low to high, each included unless said otherwise.
struct NumberRange {
  std::optional<int64_t> low, high;
  bool above_low = false, below_high = false;
};
// Magnitudes that are generated stay below 10^18.
inline constexpr int64_t kLargestNumber = 999'999'999'999'999'999;

class JsonRules {
 public:
  using Part = GrammarBuilder::Part;

  explicit JsonRules(GrammarBuilder& builder);

  Part space();                                       // may be empty
  Part non_ascii();                                   // a character of more than one byte
  Part character();                                   // of a string, escaped or not
  Part string(int64_t least = 0, int64_t most = -1);  // so many characters
  Part integer(const NumberRange& range);             // kBadArgument when it holds none
  Part number(const NumberRange& range);              // the same
  Part any_value();
  Part any_object();
  // "[" items "]": `items` and `more` each make one; least and most count all of them, most < 0: any number.
  Part array(const std::vector<Part>& first, const GrammarBuilder::Maker& more, int64_t least, int64_t most);
  // {"key": value, ...}, any keys.
  Part map(const GrammarBuilder::Maker& value);

 private:
  Part digits(int64_t low, int64_t high);
  Part digits_of_length(int64_t low, int64_t high);
  Part magnitudes(int64_t low, int64_t high, bool above_low, bool below_high);
  Part fraction();

  GrammarBuilder& b_;
  int32_t space_, non_ascii_, character_, any_value_, any_object_;
};

}  // namespace awq
