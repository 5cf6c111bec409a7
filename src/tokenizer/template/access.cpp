// Attributes and items: jinja2's sandbox, as far as the objects that templates can meet have any.
#include <algorithm>
#include <array>

#include "tokenizer/template/eval.h"
#include "tokenizer/template/text.h"

namespace awq::chat_template {
namespace {

using Words = std::initializer_list<std::string_view>;

bool one_of(std::string_view name, Words words) {
  return std::find(words.begin(), words.end(), name) != words.end();
}

// What jinja2 calls an object in "... has no attribute".
std::string described(const Value& v) {
  return v.is(Kind::kNone) ? "None" : std::string(type_name(v)) + " object";
}

Value no_attribute(const Value& object, std::string_view name) {
  return Value::undefined(fmt::format("'{}' has no attribute '{}'", described(object), name));
}

bool has_method(const Value& object, std::string_view name) {
  switch (object.kind()) {
    case Kind::kString:
      return has_string_method(name);
    case Kind::kDict:
      return one_of(name, {"get", "keys", "values", "items", "copy"});
    case Kind::kList:
      return one_of(name, {"index", "count", "copy"});
    case Kind::kTuple:
      return one_of(name, {"index", "count"});
    case Kind::kCycler:
      return one_of(name, {"next", "reset"});
    case Kind::kLoop:
      return one_of(name, {"cycle", "changed"});
    default:
      return false;
  }
}

// The methods that would change a list or dict: ImmutableSandboxedEnvironment refuses to call them.
bool is_mutator(const Value& object, std::string_view name) {
  if (object.is(Kind::kList))
    return one_of(name, {"append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"});
  return object.is(Kind::kDict) && one_of(name, {"clear", "pop", "popitem", "setdefault", "update"});
}

}  // namespace

// What getattr(object, name) finds.
std::optional<Value> Renderer::member(const Value& object, const std::string& name) {
  if (is_mutator(object, name))
    return Value::unsafe(
        fmt::format("access to attribute '{}' of '{}' object is unsafe.", name, type_name(object)));
  if (has_method(object, name)) {
    auto method = std::make_shared<MethodObject>();
    method->charge(&heap_, 128);
    method->self = object;
    method->name = name;
    return Value::shared(Kind::kMethod, std::move(method));
  }
  switch (object.kind()) {
    case Kind::kNamespace: {
      const Value* v = object.as<NamespaceObject>().members.find(heap_, name);
      return v ? std::optional(*v) : std::nullopt;
    }
    case Kind::kLoop: {
      const Value v = loop_attribute(object.as<LoopObject>(), name);
      return v.is(Kind::kMissing) ? std::nullopt : std::optional(v);
    }
    case Kind::kTuple:
      if (object.as<ListObject>().is_group && (name == "grouper" || name == "list"))
        return object.as<ListObject>().items[name == "list"];
      return std::nullopt;
    case Kind::kCycler:
      if (name == "current") return object.as<CyclerObject>().items[object.as<CyclerObject>().at];
      return std::nullopt;
    case Kind::kMacro:
      if (name == "name") return string(object.as<MacroObject>().macro->name);
      return std::nullopt;
    default:
      return std::nullopt;
  }
}

Value Renderer::attribute(const Value& object, const std::string& name) {
  require_defined(object);
  if (auto found = member(object, name)) return *found;
  if (object.is(Kind::kDict))
    if (const Value* v = object.as<DictObject>().find(heap_, name)) return *v;
  if (name.starts_with("__"))
    refuse("access to attribute '{}' of '{}' object is unsafe", name, type_name(object));
  return no_attribute(object, name);
}

Value Renderer::item(const Value& object, const Value& key) {
  require_defined(object);
  if (object.is(Kind::kDict)) {
    const bool hashable = !key.is(Kind::kList) && !key.is(Kind::kDict);
    if (hashable)
      if (const Value* v = object.as<DictObject>().find(heap_, key)) return *v;
  } else if (key.is_integral() && (object.is_string() || object.is(Kind::kList) || object.is(Kind::kTuple) ||
                                   object.is(Kind::kRange))) {
    const int64_t length = length_of(object), index = python_index(key.as_int(), length);
    if (index >= 0 && index < length) {
      if (object.is(Kind::kRange))
        return Value::integer(object.as<RangeObject>().start + index * object.as<RangeObject>().step);
      if (!object.is_string()) return object.as<ListObject>().items[static_cast<size_t>(index)];
      const std::string_view text = object.text();
      const bool markup = object.as<StringObject>().markup;
      if (static_cast<size_t>(length) == text.size())
        return make_string(heap_, std::string(1, text[static_cast<size_t>(index)]), markup);
      heap_.copy(text.size());
      return make_string(heap_, std::string(substring(text, index, index + 1)), markup);
    }
  }
  if (!key.is_string())
    return Value::undefined(fmt::format("{} has no element {}", described(object), to_literal(heap_, key)));
  const std::string name(key.text());
  if (auto found = member(object, name)) return *found;
  if (name.starts_with("__"))
    refuse("access to attribute '{}' of '{}' object is unsafe", name, type_name(object));
  return no_attribute(object, name);
}

Value Renderer::path(const Value& object, const Value& path) {
  if (path.is(Kind::kNone)) return object;
  if (!path.is_string()) return item(object, path);
  Value at = object;
  for (const std::string_view part : split_at(path.text(), ".", -1, false)) {
    const bool number = has_property(part, Property::kDigit) && part.size() < 18 &&
                        std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; });
    at = item(at, number ? Value::integer(std::stoll(std::string(part))) : string(std::string(part)));
  }
  return at;
}

// --- loop

Value Renderer::peek(LoopObject& loop) {
  if (loop.following.is(Kind::kMissing)) draw(loop, loop.following);
  return loop.following;
}

// Of a loop over what has no length, all that is left is drawn to count it.
int64_t Renderer::loop_length(LoopObject& loop) {
  if (loop.length) return *loop.length;
  if (!loop.loop->test && has_length(loop.iterable)) {
    loop.length = length_of(loop.iterable);
  } else {
    Values rest;
    for (Value v; draw(loop, v);) rest.push_back(v);
    loop.length = static_cast<int64_t>(rest.size()) + loop.index0 + 1 + !loop.following.is(Kind::kMissing);
    loop.iterable = make_list(heap_, std::move(rest));
    loop.at = 0;
    loop.tested = true;
  }
  return *loop.length;
}

Value Renderer::loop_attribute(LoopObject& loop, const std::string& name) {
  const int64_t index = loop.index0 + 1;
  if (name == "index") return Value::integer(index);
  if (name == "index0") return Value::integer(loop.index0);
  if (name == "first") return Value::boolean(loop.index0 == 0);
  if (name == "last") return Value::boolean(peek(loop).is(Kind::kMissing));
  if (name == "length") return Value::integer(loop_length(loop));
  if (name == "revindex") return Value::integer(loop_length(loop) - loop.index0);
  if (name == "revindex0") return Value::integer(loop_length(loop) - index);
  if (name == "depth") return Value::integer(loop.depth0 + 1);
  if (name == "depth0") return Value::integer(loop.depth0);
  if (name == "previtem")
    return loop.index0 <= 0 ? Value::undefined("there is no previous item") : loop.previous;
  if (name == "nextitem") {
    const Value next = peek(loop);
    return next.is(Kind::kMissing) ? Value::undefined("there is no next item") : next;
  }
  return {};
}

}  // namespace awq::chat_template
