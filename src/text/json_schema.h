// JSON Schema (draft 2020-12) as a grammar of the JSON texts it accepts.
//
// Understood: type, properties, required, additionalProperties, items, prefixItems, minItems, maxItems, enum,
// const, minLength, maxLength, pattern, minimum, maximum, exclusiveMinimum, exclusiveMaximum, anyOf, allOf of
// one, $ref to this document, true and false. Everything generated is accepted by the schema, but not
// everything accepted is generated: properties come in the order of the schema, none beyond those it names
// (unless it names none), numbers have at most 18 digits. Keywords that only describe are skipped; one that
// would restrict and is not in the list is refused by name.
#pragma once
#include <memory>
#include <string_view>

#include "text/grammar.h"

namespace awq {

inline constexpr size_t kMaxSchemaBytes = 65536, kMaxSchemaDepth = 32;

// Nesting of brackets outside strings: checked before a parser sees a text.
size_t json_depth(std::string_view json);

// Any JSON object: response_format json_object.
std::shared_ptr<const Grammar> json_object_grammar();
// kBadArgument with the place in the schema ("at /properties/age: ..."); kUnsupported for keywords outside
// the list.
std::shared_ptr<const Grammar> json_schema_grammar(std::string_view schema,
                                                   size_t max_states = GrammarBuilder::kMaxStates);

}  // namespace awq
