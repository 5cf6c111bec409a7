#include "tokenizer/template/value.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>

#include "tokenizer/template/text.h"

namespace awq::chat_template {
namespace {

constexpr int kMaxDepth = 100;

// Values inside values: enough for any conversation, far below what the stack bears.
int deeper(int depth, const Values& items) {
  for (const Value& v : items) depth = std::max(depth, v.depth() + 1);
  if (depth > kMaxDepth) refuse("expected values nested at most {} deep, got more", kMaxDepth);
  return depth;
}

constexpr int64_t bytes_of(size_t values) { return 64 + static_cast<int64_t>(values * sizeof(Value)); }

Value make_sequence(Heap& heap, Kind kind, Values items) {
  auto object = std::make_shared<ListObject>();
  object->charge(&heap, bytes_of(items.size()));
  object->depth = deeper(1, items);
  object->items = std::move(items);
  heap.step(static_cast<int64_t>(object->items.size() / 8));
  return Value::shared(kind, std::move(object));
}

Value make_undefined(std::string message) {
  auto object = std::make_shared<UndefinedObject>();
  object->message = std::move(message);
  return Value::shared(Kind::kUndefined, std::move(object));
}

}  // namespace

void Heap::out_of_steps() const {
  refuse("the template's budget of {} steps is used up (an endless loop?)", limits_.steps);
}

void Heap::out_of_memory() const {
  refuse("the template's budget of {} bytes of memory is used up", limits_.memory_bytes);
}

Value Value::undefined(std::string message) { return make_undefined(std::move(message)); }
Value Value::unsafe(std::string message) { return make_undefined(std::move(message)); }

std::string_view Value::text() const { return as<StringObject>().text; }

int Value::depth() const {
  switch (kind_) {
    case Kind::kList:
    case Kind::kTuple:
      return as<ListObject>().depth;
    case Kind::kDict:
      return as<DictObject>().depth;
    case Kind::kIterator:
      return as<IteratorObject>().depth;
    case Kind::kView:
      return as<ViewObject>().dict.depth() + 1;
    case Kind::kMethod:
      return as<MethodObject>().self.depth() + 1;
    default:
      return 0;
  }
}

Value make_string(Heap& heap, std::string text, bool markup) {
  auto object = std::make_shared<StringObject>();
  object->charge(&heap, 96 + static_cast<int64_t>(text.size()));
  heap.copy(text.size());
  object->length = count_points(text);
  object->text = std::move(text);
  object->markup = markup;
  return Value::shared(Kind::kString, std::move(object));
}

Value literal_string(std::string text) {
  auto object = std::make_shared<StringObject>();
  object->length = count_points(text);
  object->text = std::move(text);
  return Value::shared(Kind::kString, std::move(object));
}

Value make_list(Heap& heap, Values items) { return make_sequence(heap, Kind::kList, std::move(items)); }
Value make_tuple(Heap& heap, Values items) { return make_sequence(heap, Kind::kTuple, std::move(items)); }

Value make_iterator(Heap& heap, Values items, const char* name) {
  auto object = std::make_shared<IteratorObject>();
  object->charge(&heap, bytes_of(items.size()));
  object->depth = deeper(1, items);
  object->items = std::move(items);
  object->name = name;
  return Value::shared(Kind::kIterator, std::move(object));
}

Value make_range(Heap& heap, int64_t start, int64_t stop, int64_t step) {
  constexpr int64_t kMaxRange = 100'000;  // jinja2.sandbox.MAX_RANGE
  if (step == 0) refuse("range() step argument must not be zero");
  const bool empty = step > 0 ? start >= stop : start <= stop;
  // Unsigned differences: exact for any two 64-bit numbers.
  const uint64_t distance = step > 0 ? static_cast<uint64_t>(stop) - static_cast<uint64_t>(start)
                                     : static_cast<uint64_t>(start) - static_cast<uint64_t>(stop);
  const uint64_t stride = step > 0 ? static_cast<uint64_t>(step) : 0 - static_cast<uint64_t>(step);
  const uint64_t count = empty ? 0 : (distance - 1) / stride + 1;
  if (count > static_cast<uint64_t>(kMaxRange))
    refuse("range too big: expected at most {} items, got {}", kMaxRange, count);
  auto object = std::make_shared<RangeObject>();
  object->charge(&heap, 64);
  object->start = start, object->stop = stop, object->step = step;
  object->count = static_cast<int64_t>(count);
  return Value::shared(Kind::kRange, std::move(object));
}

std::shared_ptr<DictObject> new_dict(Heap& heap) {
  auto object = std::make_shared<DictObject>();
  object->charge(&heap, 128);
  return object;
}

size_t DictObject::position(Heap& meter, const Value& key, size_t hash) const {
  if (entries.size() <= kSmall) {
    for (size_t i = 0; i < entries.size(); ++i)
      if (hashes_[i] == hash && equal(meter, entries[i].first, key)) return i;
    return entries.size();
  }
  const auto [begin, end] = index_.equal_range(hash);
  for (auto it = begin; it != end; ++it)
    if (meter.step(); equal(meter, entries[it->second].first, key)) return it->second;
  return entries.size();
}

const Value* DictObject::find(Heap& meter, const Value& key) const {
  const size_t at = position(meter, key, hash_of(meter, key));
  return at < entries.size() ? &entries[at].second : nullptr;
}

const Value* DictObject::find(Heap& meter, std::string_view key) const {
  if (entries.size() <= kSmall) {
    for (const auto& [name, value] : entries)
      if (name.is_string() && name.text() == key) return &value;
    return nullptr;
  }
  return find(meter, literal_string(std::string(key)));
}

void DictObject::set(Heap& owner, const Value& key, Value value) {
  const size_t hash = hash_of(owner, key), at = position(owner, key, hash);
  depth = deeper(depth, {key, value});
  if (at < entries.size()) {
    entries[at].second = std::move(value);
    return;
  }
  constexpr int64_t kEntry = 160;
  owner.grow(kEntry);
  charged += kEntry;
  heap = &owner;
  entries.emplace_back(key, std::move(value));
  hashes_.push_back(hash);
  if (entries.size() == kSmall + 1)
    for (size_t i = 0; i < entries.size(); ++i) index_.emplace(hashes_[i], i);
  else if (entries.size() > kSmall + 1)
    index_.emplace(hash, at);
}

const char* type_name(const Value& v) {
  switch (v.kind()) {
    case Kind::kMissing:
    case Kind::kUndefined:
      return "Undefined";
    case Kind::kNone:
      return "NoneType";
    case Kind::kBool:
      return "bool";
    case Kind::kInt:
    case Kind::kBigInt:
      return "int";
    case Kind::kFloat:
      return "float";
    case Kind::kString:
      return v.as<StringObject>().markup ? "Markup" : "str";
    case Kind::kList:
      return "list";
    case Kind::kTuple:
      return "tuple";
    case Kind::kDict:
      return "dict";
    case Kind::kRange:
      return "range";
    case Kind::kView: {
      constexpr const char* kNames[] = {"dict_keys", "dict_values", "dict_items"};
      return kNames[static_cast<int>(v.as<ViewObject>().part)];
    }
    case Kind::kIterator:
      return v.as<IteratorObject>().name;
    case Kind::kNamespace:
      return "Namespace";
    case Kind::kLoop:
      return "LoopContext";
    case Kind::kMacro:
      return "Macro";
    case Kind::kFunction:
      return "function";
    case Kind::kMethod:
      return "builtin_function_or_method";
    case Kind::kCycler:
      return "Cycler";
    case Kind::kJoiner:
      return "Joiner";
  }
  return "object";
}

void refuse_undefined(const Value& v) {
  refuse("{}", v.is(Kind::kUndefined) ? v.as<UndefinedObject>().message : "a value is undefined");
}

void require_defined(const Value& v) {
  if (v.is_undefined()) refuse_undefined(v);
}

bool has_length(const Value& v) {
  switch (v.kind()) {
    case Kind::kMissing:
    case Kind::kUndefined:
    case Kind::kString:
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kDict:
    case Kind::kRange:
    case Kind::kView:
      return true;
    default:
      return false;
  }
}

int64_t length_of(const Value& v) {
  switch (v.kind()) {
    case Kind::kMissing:
    case Kind::kUndefined:
      return 0;
    case Kind::kString:
      return v.as<StringObject>().length;
    case Kind::kList:
    case Kind::kTuple:
      return static_cast<int64_t>(v.as<ListObject>().items.size());
    case Kind::kDict:
      return static_cast<int64_t>(v.as<DictObject>().entries.size());
    case Kind::kRange:
      return v.as<RangeObject>().count;
    case Kind::kView:
      return length_of(v.as<ViewObject>().dict);
    default:
      refuse("object of type '{}' has no len()", type_name(v));
  }
}

bool truth(const Value& v) {
  switch (v.kind()) {
    case Kind::kNone:
      return false;
    case Kind::kBool:
    case Kind::kInt:
      return v.as_int() != 0;
    case Kind::kFloat:
      return v.as_real() != 0;
    default:
      return !has_length(v) || length_of(v) != 0;
  }
}

bool is_iterable(const Value& v) { return has_length(v) || v.is(Kind::kIterator); }

Values items_of(Heap& heap, const Value& v) {
  Values out;
  const auto afford = [&](int64_t n) {
    heap.step(n);
    heap.afford(n * static_cast<int64_t>(sizeof(Value)));
    out.reserve(static_cast<size_t>(n));
  };
  switch (v.kind()) {
    case Kind::kMissing:
    case Kind::kUndefined:
      break;
    case Kind::kString:
      afford(length_of(v) * 4);  // each becomes a string of its own
      for (size_t at = 0; at < v.text().size();) {
        const size_t length = point_length(v.text(), at);
        out.push_back(make_string(heap, std::string(v.text().substr(at, length))));
        at += length;
      }
      break;
    case Kind::kList:
    case Kind::kTuple:
      heap.step(length_of(v));
      return v.as<ListObject>().items;
    case Kind::kDict:
      afford(length_of(v));
      for (const auto& entry : v.as<DictObject>().entries) out.push_back(entry.first);
      break;
    case Kind::kRange: {
      const auto& range = v.as<RangeObject>();
      afford(range.count);
      for (int64_t i = 0; i < range.count; ++i) out.push_back(Value::integer(range.start + i * range.step));
      break;
    }
    case Kind::kView: {
      const auto& view = v.as<ViewObject>();
      afford(length_of(v) * 4);
      for (const auto& [key, value] : view.dict.as<DictObject>().entries)
        out.push_back(view.part == ViewObject::Part::kKeys     ? key
                      : view.part == ViewObject::Part::kValues ? value
                                                               : make_tuple(heap, {key, value}));
      break;
    }
    case Kind::kIterator: {
      auto& it = v.as<IteratorObject>();
      heap.step(static_cast<int64_t>(it.items.size() - it.next));
      out.assign(it.items.begin() + static_cast<std::ptrdiff_t>(it.next), it.items.end());
      it.next = it.items.size();
      break;
    }
    default:
      refuse("'{}' object is not iterable", type_name(v));
  }
  return out;
}

bool identical(const Value& a, const Value& b) {
  if (a.kind() != b.kind()) return false;
  if (a.is(Kind::kFloat)) return a.as_real() == b.as_real();
  if (a.is_integral()) return a.as_int() == b.as_int();
  if (a.is_string()) return a.object() == b.object() || a.text() == b.text();
  return a.object() == b.object();
}

namespace {

bool equal_items(Heap& heap, const Values& a, const Values& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i)
    if (!equal(heap, a[i], b[i])) return false;
  return true;
}

bool equal_dicts(Heap& heap, const DictObject& a, const DictObject& b) {
  if (a.entries.size() != b.entries.size()) return false;
  for (const auto& [key, value] : a.entries) {
    const Value* other = b.find(heap, key);
    if (!other || !equal(heap, value, *other)) return false;
  }
  return true;
}

// -1, 0, 1; NaN compares as unordered: 2.
int compare_numbers(const Value& a, const Value& b) {
  if (a.is_integral() && b.is_integral()) return a.as_int() < b.as_int() ? -1 : a.as_int() > b.as_int();
  // Exact although one side is an integer: a long double has 64 bits of mantissa.
  const auto wide = [](const Value& v) {
    return v.is(Kind::kFloat) ? static_cast<long double>(v.as_real()) : static_cast<long double>(v.as_int());
  };
  const long double x = wide(a), y = wide(b);
  return x < y ? -1 : x > y ? 1 : x == y ? 0 : 2;
}

}  // namespace

bool equal(Heap& heap, const Value& a, const Value& b) {
  heap.step();
  if (a.is_number() && b.is_number()) return compare_numbers(a, b) == 0;
  if (a.is_undefined() || b.is_undefined()) return a.is_undefined() && b.is_undefined();
  if (a.kind() != b.kind()) return false;
  switch (a.kind()) {
    case Kind::kNone:
      return true;
    case Kind::kString:
    case Kind::kBigInt:
      if (a.text().size() != b.text().size()) return false;
      heap.copy(a.text().size());
      return a.text() == b.text();
    case Kind::kList:
    case Kind::kTuple:
      return equal_items(heap, a.as<ListObject>().items, b.as<ListObject>().items);
    case Kind::kDict:
      return equal_dicts(heap, a.as<DictObject>(), b.as<DictObject>());
    case Kind::kRange: {
      const auto &x = a.as<RangeObject>(), &y = b.as<RangeObject>();
      return x.count == y.count &&
             (x.count == 0 || (x.start == y.start && (x.count == 1 || x.step == y.step)));
    }
    default:
      return a.object() == b.object();
  }
}

int compare(Heap& heap, const Value& a, const Value& b) {
  heap.step();
  require_defined(a);
  require_defined(b);
  if (a.is_number() && b.is_number()) return compare_numbers(a, b);
  if (a.is_string() && b.is_string()) {
    heap.copy(std::min(a.text().size(), b.text().size()));
    const int order = a.text().compare(b.text());  // UTF-8's order of bytes is the order of code points
    return order < 0 ? -1 : order > 0;
  }
  if (a.kind() == b.kind() && (a.is(Kind::kList) || a.is(Kind::kTuple))) {
    const Values &x = a.as<ListObject>().items, &y = b.as<ListObject>().items;
    for (size_t i = 0; i < std::min(x.size(), y.size()); ++i)
      if (!equal(heap, x[i], y[i])) return compare(heap, x[i], y[i]);
    return x.size() < y.size() ? -1 : x.size() > y.size();
  }
  refuse("'<' not supported between instances of '{}' and '{}'", type_name(a), type_name(b));
}

size_t hash_of(Heap& heap, const Value& v) {
  switch (v.kind()) {
    case Kind::kMissing:
    case Kind::kUndefined:
      return 3;
    case Kind::kNone:
      return 5;
    case Kind::kBool:
    case Kind::kInt:
      return std::hash<int64_t>()(v.as_int());
    case Kind::kFloat: {
      const double d = v.as_real();  // equal numbers hash alike
      return d == std::floor(d) && std::fabs(d) < 9e18 ? std::hash<int64_t>()(static_cast<int64_t>(d))
                                                       : std::hash<double>()(d);
    }
    case Kind::kString:
    case Kind::kBigInt:
      heap.copy(v.text().size());
      return std::hash<std::string_view>()(v.text());
    case Kind::kTuple: {
      size_t hash = 17;
      for (const Value& item : v.as<ListObject>().items) {
        heap.step();
        hash = hash * 1000003 ^ hash_of(heap, item);
      }
      return hash;
    }
    case Kind::kList:
    case Kind::kDict:
      refuse("unhashable type: '{}'", type_name(v));
    case Kind::kRange:
      return static_cast<size_t>(v.as<RangeObject>().count);
    default:
      return std::hash<const void*>()(v.object());
  }
}

bool contains(Heap& heap, const Value& container, const Value& item) {
  switch (container.kind()) {
    case Kind::kString:
      if (item.is_undefined()) refuse_undefined(item);
      if (!item.is_string()) refuse("'in <string>' requires string as left operand, not {}", type_name(item));
      heap.copy(container.text().size());
      return container.text().find(item.text()) != std::string_view::npos;
    case Kind::kDict:
      return container.as<DictObject>().find(heap, item) != nullptr;
    case Kind::kList:
    case Kind::kTuple:
      for (const Value& v : container.as<ListObject>().items)
        if (identical(v, item) || equal(heap, v, item)) return true;
      return false;
    case Kind::kIterator: {
      auto& it = container.as<IteratorObject>();
      while (it.next < it.items.size())
        if (equal(heap, it.items[it.next++], item)) return true;
      return false;
    }
    case Kind::kMissing:
    case Kind::kUndefined:
      return false;
    default:
      if (!is_iterable(container)) refuse("argument of type '{}' is not iterable", type_name(container));
      for (const Value& v : items_of(heap, container))
        if (equal(heap, v, item)) return true;
      return false;
  }
}

std::string format_real(double v) {
  if (std::isnan(v)) return "nan";
  if (std::isinf(v)) return v < 0 ? "-inf" : "inf";
  char digits[40];
  const auto end = std::to_chars(digits, digits + sizeof digits, v, std::chars_format::scientific).ptr;
  const std::string_view scientific(digits, static_cast<size_t>(end - digits));
  const size_t e = scientific.find('e');
  const int exponent = std::atoi(std::string(scientific.substr(e + 1)).c_str());
  // Python's repr: shortest digits, scientific below 1e-4 and from 1e16.
  if (exponent < -4 || exponent >= 16)
    return fmt::format("{}e{}{:02}", scientific.substr(0, e), exponent < 0 ? '-' : '+', std::abs(exponent));
  char fixed[400];
  const auto last = std::to_chars(fixed, fixed + sizeof fixed, v, std::chars_format::fixed).ptr;
  std::string out(fixed, last);
  if (out.find('.') == std::string::npos) out += ".0";
  return out;
}

namespace {

class Printer {
 public:
  explicit Printer(Heap& heap) : heap_(heap) {}

  void literal(const Value& v) {
    heap_.step();
    if (++depth_ > kMaxDepth) refuse("expected values nested at most {} deep, got more", kMaxDepth);
    switch (v.kind()) {
      case Kind::kMissing:
      case Kind::kUndefined:
        put("Undefined");
        break;
      case Kind::kNone:
        put("None");
        break;
      case Kind::kBool:
        put(v.as_int() ? "True" : "False");
        break;
      case Kind::kInt:
        put(std::to_string(v.as_int()));
        break;
      case Kind::kFloat:
        put(format_real(v.as_real()));
        break;
      case Kind::kBigInt:
        put(v.text());
        break;
      case Kind::kString:
        if (v.as<StringObject>().markup)
          put("Markup(" + quoted(v.text()) + ")");
        else
          put(quoted(v.text()));
        break;
      case Kind::kList:
        sequence("[", v.as<ListObject>().items, "]");
        break;
      case Kind::kTuple:
        sequence("(", v.as<ListObject>().items, v.as<ListObject>().items.size() == 1 ? ",)" : ")");
        break;
      case Kind::kDict:
        dict(v.as<DictObject>());
        break;
      case Kind::kRange:
        range(v.as<RangeObject>());
        break;
      case Kind::kView:
        put(type_name(v));
        sequence("([", items_of(heap_, v), "])");
        break;
      case Kind::kNamespace: name_space(v); break;
      default:
        put(std::string("<") + type_name(v) + " object>");
    }
    --depth_;
  }

  std::string take() { return std::move(out_); }

 private:
  void put(std::string_view text) {
    heap_.copy(text.size());
    heap_.afford(static_cast<int64_t>(out_.size() + text.size()));
    out_ += text;
  }

  void sequence(std::string_view open, const Values& items, std::string_view close) {
    put(open);
    for (size_t i = 0; i < items.size(); ++i) {
      if (i) put(", ");
      literal(items[i]);
    }
    put(close);
  }

  void dict(const DictObject& d) {
    put("{");
    for (size_t i = 0; i < d.entries.size(); ++i) {
      if (i) put(", ");
      literal(d.entries[i].first);
      put(": ");
      literal(d.entries[i].second);
    }
    put("}");
  }

  // A namespace may hold itself.
  void name_space(const Value& v) {
    const bool inside = std::find(open_.begin(), open_.end(), v.object()) != open_.end();
    if (inside) {
      put("<Namespace {...}>");
      return;
    }
    open_.push_back(v.object());
    put("<Namespace ");
    dict(v.as<NamespaceObject>().members);
    put(">");
    open_.pop_back();
  }

  void range(const RangeObject& r) {
    put(r.step == 1 ? fmt::format("range({}, {})", r.start, r.stop)
                    : fmt::format("range({}, {}, {})", r.start, r.stop, r.step));
  }

  Heap& heap_;
  std::string out_;
  std::vector<const Object*> open_;  // namespaces that are being shown
  int depth_ = 0;
};

}  // namespace

std::string to_literal(Heap& heap, const Value& v) {
  Printer printer(heap);
  printer.literal(v);
  return printer.take();
}

std::string to_text(Heap& heap, const Value& v) {
  if (v.is_undefined()) return "";
  if (v.is_string()) {
    heap.copy(v.text().size());
    return std::string(v.text());
  }
  return to_literal(heap, v);
}

}  // namespace awq::chat_template
