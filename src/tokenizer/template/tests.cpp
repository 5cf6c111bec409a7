// Tests: what may stand behind `is` (jinja2/tests.py).
#include <algorithm>
#include <iterator>

#include "tokenizer/template/eval.h"
#include "tokenizer/template/functions.h"
#include "tokenizer/template/text.h"

namespace awq::chat_template {
namespace {

using Test = bool (*)(Renderer&, const Value&, Signature&);

template <bool (*Holds)(const Value&)>
bool plain(Renderer&, const Value& v, Signature& s) {
  s.done();
  return Holds(v);
}

template <int kOp>
bool compares(Renderer& r, const Value& v, Signature& s) {
  const Value& other = s.required("other");
  s.done();
  return r.compare(kOp, v, other);
}

template <int64_t kRemainder>
bool parity(Renderer& r, const Value& v, Signature& s) {
  s.done();
  return equal(r.heap(), r.binary(kMod, v, Value::integer(2)), Value::integer(kRemainder));
}

bool divisible(Renderer& r, const Value& v, Signature& s) {
  const Value& by = s.required("num");
  s.done();
  return equal(r.heap(), r.binary(kMod, v, by), Value::integer(0));
}

bool same(Renderer&, const Value& v, Signature& s) {
  const Value& other = s.required("other");
  s.done();
  return identical(v, other);
}

template <Property kProperty>
bool cased(Renderer& r, const Value& v, Signature& s) {
  s.done();
  return has_property(r.text(v), kProperty);
}

template <int (*Find)(std::string_view)>
bool is_known(Renderer& r, const Value& v, Signature& s) {
  s.done();
  return Find(r.text(v)) >= 0;
}

bool is_sequence(const Value& v) { return has_length(v) && !v.is(Kind::kView); }
bool is_callable(const Value& v) {
  return v.is_undefined() || (v.kind() >= Kind::kLoop && v.kind() <= Kind::kMethod) || v.is(Kind::kJoiner);
}

struct NamedTest {
  std::string_view name;
  Test holds;
};
constexpr NamedTest kTests[] = {
    {"!=", compares<kNe>},
    {"<", compares<kLt>},
    {"<=", compares<kLe>},
    {"==", compares<kEq>},
    {">", compares<kGt>},
    {">=", compares<kGe>},
    {"boolean", plain<[](const Value& v) { return v.is(Kind::kBool); }>},
    {"callable", plain<is_callable>},
    {"defined", plain<[](const Value& v) { return !v.is_undefined(); }>},
    {"divisibleby", divisible},
    {"eq", compares<kEq>},
    {"equalto", compares<kEq>},
    {"escaped", plain<[](const Value& v) { return v.is_string() && v.as<StringObject>().markup; }>},
    {"even", parity<0>},
    {"false", plain<[](const Value& v) { return v.is(Kind::kBool) && v.as_int() == 0; }>},
    {"filter", is_known<find_filter>},
    {"float", plain<[](const Value& v) { return v.is(Kind::kFloat); }>},
    {"ge", compares<kGe>},
    {"greaterthan", compares<kGt>},
    {"gt", compares<kGt>},
    {"in", compares<kIn>},
    {"integer", plain<[](const Value& v) { return v.is(Kind::kInt) || v.is(Kind::kBigInt); }>},
    {"iterable", plain<is_iterable>},
    {"le", compares<kLe>},
    {"lessthan", compares<kLt>},
    {"lower", cased<Property::kLower>},
    {"lt", compares<kLt>},
    {"mapping", plain<[](const Value& v) { return v.is(Kind::kDict); }>},
    {"ne", compares<kNe>},
    {"none", plain<[](const Value& v) { return v.is(Kind::kNone); }>},
    {"number", plain<[](const Value& v) { return v.is_number() || v.is(Kind::kBigInt); }>},
    {"odd", parity<1>},
    {"sameas", same},
    {"sequence", plain<is_sequence>},
    {"string", plain<[](const Value& v) { return v.is_string(); }>},
    {"test", is_known<find_test>},
    {"true", plain<[](const Value& v) { return v.is(Kind::kBool) && v.as_int() == 1; }>},
    {"undefined", plain<[](const Value& v) { return v.is_undefined(); }>},
    {"upper", cased<Property::kUpper>},
};

}  // namespace

int find_test(std::string_view name) {
  const auto* it =
      std::find_if(std::begin(kTests), std::end(kTests), [&](const auto& t) { return t.name == name; });
  return it == std::end(kTests) ? -1 : static_cast<int>(it - std::begin(kTests));
}

bool Renderer::test(int index, const std::string& name, const Value& value, const Arguments& arguments) {
  if (index < 0) refuse("there is no test '{}'", name);
  heap_.step();
  Signature signature(name.c_str(), arguments);
  return kTests[index].holds(*this, value, signature);
}

}  // namespace awq::chat_template
