// The values a chat template computes with: Python's, as far as templates use them. Values are immutable but
// for namespaces, loop states and iterators; strings are UTF-8 and are indexed by code points.
#pragma once
#include <fmt/core.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "tokenizer/chat_template.h"

namespace awq::chat_template {

// What went wrong while a template ran; render() adds the template's name and the line.
struct Failure {
  std::string message;
};
template <class... Args>
[[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) {
  throw Failure{fmt::format(format, std::forward<Args>(args)...)};
}

// The budget of one rendering: every value that is made is charged to it, and given back when it dies.
class Heap {
 public:
  explicit Heap(const TemplateLimits& limits)
      : steps_(limits.steps), memory_(limits.memory_bytes), limits_(limits) {}

  void step(int64_t n = 1) {
    if ((steps_ -= n) < 0) out_of_steps();
  }
  // Work in proportion to so many bytes.
  void copy(size_t bytes) { step(static_cast<int64_t>(bytes / 64)); }
  // To be called before so many bytes are made.
  void afford(int64_t bytes) const {
    if (bytes > memory_) out_of_memory();
  }
  void grow(int64_t bytes) {
    if ((memory_ -= bytes) < 0) out_of_memory();
  }
  void shrink(int64_t bytes) { memory_ += bytes; }
  const TemplateLimits& limits() const { return limits_; }

 private:
  [[noreturn]] void out_of_steps() const;
  [[noreturn]] void out_of_memory() const;

  int64_t steps_, memory_;
  TemplateLimits limits_;
};

struct Object {
  Object() = default;
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;
  virtual ~Object() {
    if (heap) heap->shrink(charged);
  }
  void charge(Heap* to, int64_t bytes) {
    to->grow(bytes);
    heap = to;
    charged = bytes;
  }
  Heap* heap = nullptr;  // null: part of the program, not of a rendering
  int64_t charged = 0;
};

enum class Kind : uint8_t {
  kMissing,    // a variable that has no value yet; templates see it as undefined
  kUndefined,  // carries the message of the error it becomes when it is used
  kNone,
  kBool,
  kInt,
  kFloat,
  kBigInt,  // an integer of the context beyond 64 bits: can be shown, not computed with
  kString,
  kList,
  kTuple,
  kDict,
  kRange,
  kView,       // of a dict: keys(), values(), items()
  kIterator,   // yields its items once: what map, select, reverse, ... give
  kNamespace,  // the rest lives as long as the rendering and is compared by identity
  kLoop,
  kMacro,
  kFunction,
  kMethod,
  kCycler,
  kJoiner,
};

class Value {
 public:
  Value() = default;
  static Value undefined(std::string message);
  static Value unsafe(std::string message);  // undefined, too
  static Value none() { return Value(Kind::kNone); }
  static Value boolean(bool v) {
    Value r(Kind::kBool);
    r.int_ = v;
    return r;
  }
  static Value integer(int64_t v) {
    Value r(Kind::kInt);
    r.int_ = v;
    return r;
  }
  static Value real(double v) {
    Value r(Kind::kFloat);
    r.real_ = v;
    return r;
  }
  static Value shared(Kind kind, std::shared_ptr<Object> object) {
    Value r(kind);
    r.object_ = std::move(object);
    return r;
  }
  // An object that the rendering owns.
  static Value owned(Kind kind, Object* object) {
    Value r(kind);
    r.raw_ = object;
    return r;
  }

  Kind kind() const { return kind_; }
  bool is(Kind kind) const { return kind_ == kind; }
  bool is_undefined() const { return kind_ <= Kind::kUndefined; }
  bool is_string() const { return kind_ == Kind::kString; }
  bool is_integral() const { return kind_ == Kind::kInt || kind_ == Kind::kBool; }
  bool is_number() const { return is_integral() || kind_ == Kind::kFloat; }
  int64_t as_int() const { return int_; }  // of kInt and kBool
  double as_real() const { return kind_ == Kind::kFloat ? real_ : static_cast<double>(int_); }
  Object* object() const { return object_ ? object_.get() : raw_; }
  template <class T>
  T& as() const {
    return static_cast<T&>(*object());
  }
  std::string_view text() const;  // of kString
  int depth() const;              // of nested containers

 private:
  explicit Value(Kind kind) : kind_(kind) {}
  Kind kind_ = Kind::kMissing;
  union {
    int64_t int_ = 0;
    double real_;
    Object* raw_;
  };
  std::shared_ptr<Object> object_;
};

using Values = std::vector<Value>;

struct StringObject : Object {
  std::string text;
  int64_t length = 0;   // code points
  bool markup = false;  // the result of |safe or |escape: + escapes what it is joined with
};
struct UndefinedObject : Object {
  std::string message;
};
struct ListObject : Object {  // lists, tuples
  Values items;
  int depth = 1;
  bool is_group = false;  // of |groupby: (grouper, list), also by these names
};
struct IteratorObject : Object {
  Values items;
  size_t next = 0;
  const char* name = "generator";
  int depth = 1;
};
struct RangeObject : Object {
  int64_t start = 0, stop = 0, step = 1, count = 0;
};

struct DictObject : Object {
  std::vector<std::pair<Value, Value>> entries;  // in order of insertion
  int depth = 1;
  const Value* find(Heap& heap, const Value& key) const;
  const Value* find(Heap& heap, std::string_view key) const;
  void set(Heap& heap, const Value& key, Value value);

 private:
  static constexpr size_t kSmall = 8;  // up to here a scan beats an index
  size_t position(Heap& heap, const Value& key, size_t hash) const;
  std::vector<size_t> hashes_;
  std::unordered_multimap<size_t, size_t> index_;  // hash -> position
};
struct ViewObject : Object {
  enum class Part : uint8_t { kKeys, kValues, kItems } part = Part::kKeys;
  Value dict;
};
struct NamespaceObject : Object {
  DictObject members;
};
struct CyclerObject : Object {
  Values items;
  size_t at = 0;
};
struct JoinerObject : Object {
  std::string separator;
  bool used = false;
};
struct MethodObject : Object {
  Value self;
  std::string name;
};
enum class Global : uint8_t { kRange, kDict, kNamespace, kCycler, kJoiner, kRaise, kStrftime };
struct FunctionObject : Object {
  Global function = Global::kRange;
};

// --- making values
Value make_string(Heap& heap, std::string text, bool markup = false);
Value literal_string(std::string text);  // of the program: charged to no rendering
Value make_list(Heap& heap, Values items);
Value make_tuple(Heap& heap, Values items);
Value make_iterator(Heap& heap, Values items, const char* name = "generator");
Value make_range(Heap& heap, int64_t start, int64_t stop, int64_t step);
std::shared_ptr<DictObject> new_dict(Heap& heap);

// --- Python's protocols
const char* type_name(const Value& v);  // 'str', 'list', ...
bool truth(const Value& v);
bool equal(Heap& heap, const Value& a, const Value& b);
bool identical(const Value& a, const Value& b);
int compare(Heap& heap, const Value& a, const Value& b);  // -1, 0, 1, 2: a NaN; refuses what has no order
size_t hash_of(Heap& heap, const Value& v);               // refuses lists and dicts
bool contains(Heap& heap, const Value& container, const Value& item);
int64_t length_of(const Value& v);  // refuses what has none
bool has_length(const Value& v);
bool is_iterable(const Value& v);
// What iterating gives; an iterator is exhausted by it.
Values items_of(Heap& heap, const Value& v);
std::string to_text(Heap& heap, const Value& v);     // str()
std::string to_literal(Heap& heap, const Value& v);  // repr()
std::string format_real(double v);                   // repr() of a float
// The message of what using this undefined value means.
[[noreturn]] void refuse_undefined(const Value& v);
void require_defined(const Value& v);

// --- JSON
// The members of a JSON object become a dict.
Value parse_context(Heap& heap, std::string_view json);
struct JsonStyle {
  bool ensure_ascii = false, sort_keys = false;
  bool indented = false;  // a line for each item
  std::string indent_text;
  std::string item_separator = ", ", key_separator = ": ";
};
std::string to_json(Heap& heap, const Value& v, const JsonStyle& style);

}  // namespace awq::chat_template
