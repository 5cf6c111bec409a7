// Regular expressions of JSON Schema's `pattern` (ECMA-262) as automata over the inside of a JSON string.
#pragma once
#include <string_view>

#include "text/grammar.h"
#include "text/json_rules.h"

namespace awq {

// Characters, ., classes of ASCII members, \d \w \s and their complements, groups, | and the quantifiers; ^
// and $ at the ends, without them anything may stand around a match. Quotation marks and backslashes come out
// escaped. kUnsupported names what else there is (look-around, back references, Unicode classes),
// kBadArgument what is wrong.
GrammarBuilder::Part json_pattern(GrammarBuilder& builder, JsonRules& rules, std::string_view pattern);

}  // namespace awq
