// What the filters share.
#pragma once
#include "tokenizer/template/eval.h"

namespace awq::chat_template {

using Filter = Value (*)(Renderer&, const Value&, Signature&, const Arguments&);
struct NamedFilter {
  std::string_view name;
  Filter run;
};
// The part of the table that treats sequences (sequence_filters.cpp).
const std::vector<NamedFilter>& sequence_filters();

// str(value), but a string as it is.
Value soft_string(Renderer& r, const Value& v);

}  // namespace awq::chat_template
