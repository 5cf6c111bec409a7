// Expressions.
#include "tokenizer/template/eval.h"

#include <cmath>

#include "tokenizer/template/text.h"

namespace awq::chat_template {

Values Renderer::all(const std::vector<ExprPtr>& parts) {
  Values out;
  out.reserve(parts.size());
  for (const auto& part : parts) out.push_back(eval(*part));
  return out;
}

Value Renderer::eval(const Expr& e) {
  const Deeper deeper(*this);
  heap_.step();
  line_ = e.line;
  switch (e.kind) {
    case Expr::Kind::kConst:
      return e.value;
    case Expr::Kind::kName:
      return name(e);
    case Expr::Kind::kList:
      return make_list(heap_, all(e.parts));
    case Expr::Kind::kTuple:
      return make_tuple(heap_, all(e.parts));
    case Expr::Kind::kDict:
      return dict(e);
    case Expr::Kind::kAttribute:
      return attribute(eval(*e.parts[0]), e.name);
    case Expr::Kind::kItem:
      return item_or_slice(e);
    case Expr::Kind::kSlice:
      refuse("slices cannot be combined with other subscripts");
    case Expr::Kind::kCall: {
      const Value callee = eval(*e.parts[0]);
      Arguments given = arguments(e.args);
      line_ = e.line;
      return call(callee, std::move(given));
    }
    case Expr::Kind::kFilter: {
      const Value value = eval(*e.parts[0]);
      Arguments given = arguments(e.args);
      line_ = e.line;
      return filter(e.op, e.name, value, std::move(given));
    }
    case Expr::Kind::kTest: {
      const Value value = eval(*e.parts[0]);
      return Value::boolean(test(e.op, e.name, value, arguments(e.args)));
    }
    case Expr::Kind::kNot:
      return Value::boolean(!truth(eval(*e.parts[0])));
    case Expr::Kind::kNegate:
    case Expr::Kind::kPlus: {
      const Value v = eval(*e.parts[0]);
      if (v.is(Kind::kFloat)) return Value::real(e.kind == Expr::Kind::kNegate ? -v.as_real() : v.as_real());
      return binary(e.kind == Expr::Kind::kNegate ? kSub : kAdd, Value::integer(0), v);
    }
    case Expr::Kind::kBinary: {
      const Value a = eval(*e.parts[0]);
      const Value b = eval(*e.parts[1]);
      line_ = e.line;
      return binary(e.op, a, b);
    }
    case Expr::Kind::kConcat:
      return concatenation(e);
    case Expr::Kind::kCompare:
      return comparison(e);
    case Expr::Kind::kAnd: {
      Value a = eval(*e.parts[0]);
      return truth(a) ? eval(*e.parts[1]) : a;
    }
    case Expr::Kind::kOr: {
      Value a = eval(*e.parts[0]);
      return truth(a) ? a : eval(*e.parts[1]);
    }
    case Expr::Kind::kCondition:
      if (truth(eval(*e.parts[0]))) return eval(*e.parts[1]);
      if (e.parts[2]) return eval(*e.parts[2]);
      return Value::undefined("the inline if-expression evaluated to false and no else section was defined.");
  }
  return {};
}

Value Renderer::name(const Expr& e) {
  if (e.ref.slot < 0) return rendered_;
  const Value& v = slot(e.ref);
  return v.is(Kind::kMissing) ? Value::undefined(fmt::format("'{}' is undefined", e.name)) : v;
}

Value Renderer::dict(const Expr& e) {
  auto out = new_dict(heap_);
  for (size_t i = 0; i < e.parts.size(); i += 2) {
    const Value key = eval(*e.parts[i]);
    out->set(heap_, key, eval(*e.parts[i + 1]));
  }
  return Value::shared(Kind::kDict, std::move(out));
}

Value Renderer::concatenation(const Expr& e) {
  std::string out;
  for (const auto& part : e.parts) {
    const Value v = eval(*part);
    heap_.afford(static_cast<int64_t>(out.size()) +
                 (v.is_string() ? static_cast<int64_t>(v.text().size()) : 0));
    if (v.is_string())
      out += v.text();
    else
      out += text(v);
  }
  return string(std::move(out));
}

Value Renderer::comparison(const Expr& e) {
  Value left = eval(*e.parts[0]);
  for (size_t i = 0; i < e.ops.size(); ++i) {
    Value right = eval(*e.parts[i + 1]);
    line_ = e.line;
    if (!compare(e.ops[i], left, right)) return Value::boolean(false);
    left = std::move(right);
  }
  return Value::boolean(true);
}

bool Renderer::compare(int op, const Value& a, const Value& b) {
  switch (op) {
    case kEq:
      return equal(heap_, a, b);
    case kNe:
      return !equal(heap_, a, b);
    case kLt:
      return chat_template::compare(heap_, a, b) == -1;
    case kGt:
      return chat_template::compare(heap_, a, b) == 1;
    case kLe: {
      const int order = chat_template::compare(heap_, a, b);
      return order == -1 || order == 0;
    }
    case kGe: {
      const int order = chat_template::compare(heap_, a, b);
      return order == 1 || order == 0;
    }
    case kIn:
      return contains(heap_, b, a);
    default:
      return !contains(heap_, b, a);
  }
}

Arguments Renderer::arguments(const std::vector<Argument>& args) {
  Arguments out;
  const auto add_named = [&](std::string name, Value value) {
    if (out.find(name)) refuse("got multiple values for keyword argument '{}'", name);
    out.named.emplace_back(std::move(name), std::move(value));
  };
  for (const Argument& arg : args) {
    Value v = eval(*arg.value);
    switch (arg.kind) {
      case Argument::Kind::kPositional:
        out.positional.push_back(std::move(v));
        break;
      case Argument::Kind::kNamed:
        add_named(arg.name, std::move(v));
        break;
      case Argument::Kind::kStar:
        require_defined(v);
        for (Value& item : items_of(heap_, v)) out.positional.push_back(std::move(item));
        break;
      case Argument::Kind::kDoubleStar:
        require_defined(v);
        if (!v.is(Kind::kDict)) refuse("argument after ** must be a mapping, not {}", type_name(v));
        for (const auto& [key, value] : v.as<DictObject>().entries) {
          if (!key.is_string()) refuse("keywords must be strings");
          heap_.step(static_cast<int64_t>(out.named.size()));
          add_named(std::string(key.text()), value);
        }
    }
  }
  return out;
}

int64_t python_index(int64_t index, int64_t length) { return index < 0 ? index + length : index; }

Value Renderer::item_or_slice(const Expr& e) {
  const Value object = eval(*e.parts[0]);
  const Expr& key = *e.parts[1];
  if (key.kind != Expr::Kind::kSlice) return item(object, eval(key));
  Value bounds[3] = {Value::none(), Value::none(), Value::none()};
  for (size_t i = 0; i < 3; ++i)
    if (key.parts[i]) bounds[i] = eval(*key.parts[i]);
  return slice(object, bounds[0], bounds[1], bounds[2]);
}

Value Renderer::slice(const Value& object, const Value& start, const Value& stop, const Value& step_value) {
  require_defined(object);
  const auto bound = [](const Value& v, int64_t fallback, int64_t low, int64_t high, int64_t length) {
    if (v.is(Kind::kNone)) return fallback;
    require_defined(v);
    if (!v.is_integral()) refuse("slice indices must be integers or None, not '{}'", type_name(v));
    return std::min(std::max(v.as_int() < 0 ? v.as_int() + length : v.as_int(), low), high);
  };
  const bool is_list = object.is(Kind::kList) || object.is(Kind::kTuple);
  if (!is_list && !object.is_string() && !object.is(Kind::kRange))
    refuse("'{}' object cannot be sliced", type_name(object));
  const int64_t length = length_of(object);
  const int64_t step = bound(step_value, 1, INT32_MIN, INT32_MAX, 0);
  if (step == 0) refuse("slice step cannot be zero");
  const int64_t low = step > 0 ? 0 : -1, high = step > 0 ? length : length - 1;
  const int64_t first = bound(start, step > 0 ? low : high, low, high, length);
  const int64_t last = bound(stop, step > 0 ? high : low, low, high, length);
  if (object.is_string() && step == 1)
    return make_string(heap_, std::string(substring(object.text(), first, std::max(first, last))),
                       object.as<StringObject>().markup);
  Values chosen;
  const Values items = is_list ? Values() : items_of(heap_, object);
  const Values& from = is_list ? object.as<ListObject>().items : items;
  for (int64_t i = first; step > 0 ? i < last : i > last; i += step) {
    heap_.step();
    chosen.push_back(from[static_cast<size_t>(i)]);
  }
  if (object.is_string()) {
    std::string joined;
    for (const Value& point : chosen) joined += point.text();
    return make_string(heap_, std::move(joined), object.as<StringObject>().markup);
  }
  return object.is(Kind::kTuple) ? make_tuple(heap_, std::move(chosen)) : make_list(heap_, std::move(chosen));
}

namespace {

[[noreturn]] void refuse_overflow() { refuse("integers beyond 64 bits are not supported"); }

int64_t power(int64_t base, int64_t exponent) {
  int64_t result = 1;
  for (; exponent > 0; exponent >>= 1) {
    if ((exponent & 1) && __builtin_mul_overflow(result, base, &result)) refuse_overflow();
    if (exponent > 1 && __builtin_mul_overflow(base, base, &base)) refuse_overflow();
  }
  return result;
}

// Python's floor division and modulo: the remainder has the divisor's sign.
Value integer_division(int op, int64_t a, int64_t b) {
  if (b == 0) refuse("integer division or modulo by zero");
  if (a == INT64_MIN && b == -1) {
    if (op == kFloorDiv) refuse_overflow();
    return Value::integer(0);
  }
  const int64_t quotient = a / b, remainder = a % b;
  const bool adjust = remainder != 0 && (remainder < 0) != (b < 0);
  return Value::integer(op == kFloorDiv ? quotient - adjust : adjust ? remainder + b : remainder);
}

Value real_division(int op, double a, double b) {
  if (b == 0) refuse("float division by zero");
  double mod = std::fmod(a, b);
  double div = (a - mod) / b;
  if (mod != 0 && (b < 0) != (mod < 0)) mod += b, div -= 1;
  if (mod == 0) mod = std::copysign(0.0, b);
  if (op == kMod) return Value::real(mod);
  double floored = std::floor(div);
  if (div - floored > 0.5) floored += 1;
  return Value::real(div == 0 ? std::copysign(0.0, a / b) : floored);
}

Value integer_arithmetic(int op, int64_t a, int64_t b) {
  int64_t r = 0;
  switch (op) {
    case kAdd:
      if (__builtin_add_overflow(a, b, &r)) refuse_overflow();
      return Value::integer(r);
    case kSub:
      if (__builtin_sub_overflow(a, b, &r)) refuse_overflow();
      return Value::integer(r);
    case kMul:
      if (__builtin_mul_overflow(a, b, &r)) refuse_overflow();
      return Value::integer(r);
    case kDiv:
      if (b == 0) refuse("division by zero");
      return Value::real(static_cast<double>(a) / static_cast<double>(b));
    case kPow:
      if (b >= 0) return Value::integer(power(a, b));
      if (a == 0) refuse("0.0 cannot be raised to a negative power");
      return Value::real(std::pow(static_cast<double>(a), static_cast<double>(b)));
    default:
      return integer_division(op, a, b);
  }
}

Value real_arithmetic(int op, double a, double b) {
  switch (op) {
    case kAdd:
      return Value::real(a + b);
    case kSub:
      return Value::real(a - b);
    case kMul:
      return Value::real(a * b);
    case kDiv:
      if (b == 0) refuse("float division by zero");
      return Value::real(a / b);
    case kPow: {
      if (a == 0 && b < 0) refuse("0.0 cannot be raised to a negative power");
      if (a < 0 && b != std::floor(b)) refuse("complex numbers are not supported");
      const double r = std::pow(a, b);
      if (std::isinf(r) && !std::isinf(a) && !std::isinf(b)) refuse("(34, 'Numerical result out of range')");
      return Value::real(r);
    }
    default:
      return real_division(op, a, b);
  }
}

constexpr const char* kOpNames[] = {"+", "-", "*", "/", "//", "%", "** or pow()"};

Value repeat(Heap& heap, const Value& sequence, int64_t times) {
  times = std::max<int64_t>(times, 0);
  const bool is_string = sequence.is_string();
  const auto unit = static_cast<int64_t>(is_string ? sequence.text().size()
                                                   : sequence.as<ListObject>().items.size() * sizeof(Value));
  int64_t bytes = 0;
  if (__builtin_mul_overflow(unit, times, &bytes)) bytes = INT64_MAX;
  heap.afford(bytes);
  heap.step(bytes / 64);
  if (unit == 0) times = 0;
  if (is_string) {
    std::string out;
    out.reserve(static_cast<size_t>(bytes));
    for (int64_t i = 0; i < times; ++i) out += sequence.text();
    return make_string(heap, std::move(out), sequence.as<StringObject>().markup);
  }
  Values out;
  out.reserve(static_cast<size_t>(bytes) / sizeof(Value));
  const Values& items = sequence.as<ListObject>().items;
  for (int64_t i = 0; i < times; ++i) out.insert(out.end(), items.begin(), items.end());
  return sequence.is(Kind::kTuple) ? make_tuple(heap, std::move(out)) : make_list(heap, std::move(out));
}

bool is_sequence(const Value& v) { return v.is_string() || v.is(Kind::kList) || v.is(Kind::kTuple); }

Value joined(Heap& heap, const Value& a, const Value& b) {
  if (a.is_string()) {
    const auto &x = a.as<StringObject>(), &y = b.as<StringObject>();
    heap.afford(static_cast<int64_t>(x.text.size() + y.text.size()));
    const bool markup = x.markup || y.markup;
    const std::string left = markup && !x.markup ? escape_html(x.text) : x.text;
    return make_string(heap, left + (markup && !y.markup ? escape_html(y.text) : y.text), markup);
  }
  Values items = a.as<ListObject>().items;
  const Values& more = b.as<ListObject>().items;
  heap.afford(static_cast<int64_t>((items.size() + more.size()) * sizeof(Value)));
  heap.step(static_cast<int64_t>(items.size() + more.size()) / 8);
  items.insert(items.end(), more.begin(), more.end());
  return a.is(Kind::kTuple) ? make_tuple(heap, std::move(items)) : make_list(heap, std::move(items));
}

}  // namespace

Value Renderer::binary(int op, const Value& a, const Value& b) {
  if (op == kMod && a.is_string())
    return make_string(heap_, format_percent(*this, a.text(), b), a.as<StringObject>().markup);
  require_defined(a);
  require_defined(b);
  if (a.is_integral() && b.is_integral()) return integer_arithmetic(op, a.as_int(), b.as_int());
  if (a.is_number() && b.is_number()) return real_arithmetic(op, a.as_real(), b.as_real());
  if (op == kAdd && a.kind() == b.kind() && is_sequence(a)) return joined(heap_, a, b);
  if (op == kMul && is_sequence(a) && b.is_integral()) return repeat(heap_, a, b.as_int());
  if (op == kMul && a.is_integral() && is_sequence(b)) return repeat(heap_, b, a.as_int());
  if (a.is(Kind::kBigInt) || b.is(Kind::kBigInt)) refuse_overflow();
  refuse("unsupported operand type(s) for {}: '{}' and '{}'", kOpNames[op], type_name(a), type_name(b));
}

}  // namespace awq::chat_template
