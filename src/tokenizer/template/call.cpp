// Calls: macros, the global functions, methods.
#include <algorithm>

#include "tokenizer/template/eval.h"
#include "tokenizer/template/text.h"

namespace awq::chat_template {

const Value* Arguments::find(std::string_view name) const {
  for (const auto& [key, value] : named)
    if (key == name) return &value;
  return nullptr;
}

const Value* Signature::next(const char* name) {
  const Value* named = arguments_.find(name);
  if (at_ < arguments_.positional.size()) {
    if (named) refuse("{}() got multiple values for argument '{}'", function_, name);
    return &arguments_.positional[at_++];
  }
  named_used_ += named != nullptr;
  return named;
}

const Value& Signature::required(const char* name) {
  const Value* v = next(name);
  if (!v) refuse("{}() missing required argument '{}'", function_, name);
  return *v;
}

std::optional<int64_t> Signature::integer(const char* name) {
  const Value* v = next(name);
  if (!v || v->is(Kind::kNone)) return std::nullopt;
  require_defined(*v);
  if (!v->is_integral())
    refuse("{}(): expected an integer for '{}', got '{}'", function_, name, type_name(*v));
  return v->as_int();
}

std::optional<std::string_view> Signature::string(const char* name) {
  const Value* v = next(name);
  if (!v || v->is(Kind::kNone)) return std::nullopt;
  require_defined(*v);
  if (!v->is_string()) refuse("{}(): expected a string for '{}', got '{}'", function_, name, type_name(*v));
  return v->text();
}

bool Signature::flag(const char* name, bool fallback) {
  const Value* v = next(name);
  return v ? truth(*v) : fallback;
}

void Signature::done() const {
  if (at_ < arguments_.positional.size())
    refuse("{}() takes at most {} arguments, got {}", function_, at_, arguments_.positional.size());
  if (named_used_ < arguments_.named.size())
    refuse("{}() got an unexpected keyword argument '{}'", function_, arguments_.named.back().first);
}

Value Renderer::call(const Value& callee, Arguments given) {
  const Deeper deeper(*this);
  heap_.step();
  require_defined(callee);
  switch (callee.kind()) {
    case Kind::kMacro:
      return call_macro(callee.as<MacroObject>(), std::move(given));
    case Kind::kFunction:
      return call_function(callee.as<FunctionObject>().function, given);
    case Kind::kMethod: {
      const auto& method = callee.as<MethodObject>();
      if (method.self.is_string()) return call_string_method(*this, method.self, method.name, given);
      return call_method(method.self, method.name, given);
    }
    case Kind::kLoop:
      return call_loop(callee.as<LoopObject>(), given);
    case Kind::kJoiner: {
      auto& joiner = callee.as<JoinerObject>();
      const bool first = !std::exchange(joiner.used, true);
      return string(first ? std::string() : joiner.separator);
    }
    default:
      refuse("'{}' object is not callable", type_name(callee));
  }
}

namespace {

// Takes the named argument out, as Python's kwargs.pop(name) does.
std::optional<Value> take(Arguments& given, std::string_view name) {
  const auto it =
      std::find_if(given.named.begin(), given.named.end(), [&](const auto& a) { return a.first == name; });
  if (it == given.named.end()) return std::nullopt;
  Value v = std::move(it->second);
  given.named.erase(it);
  return v;
}

}  // namespace

// jinja2's Macro.__call__: positional arguments, then named ones, then defaults, which see the parameters
// before them.
void Renderer::bind(const Stmt& macro, Frame& frame, Arguments& given) {
  const auto slot_of = [&](int index) -> Value& { return frame.slots[static_cast<size_t>(index)]; };
  bool caller_found = macro.explicit_caller && given.positional.size() >= macro.parameters.size();
  for (size_t i = 0; i < macro.parameters.size(); ++i) {
    const Parameter& p = macro.parameters[i];
    if (i < given.positional.size()) {
      slot_of(p.slot) = given.positional[i];
      continue;
    }
    caller_found = caller_found || p.name == "caller";
    if (auto named = take(given, p.name))
      slot_of(p.slot) = std::move(*named);
    else if (p.fallback)
      slot_of(p.slot) = eval(*p.fallback);
    else
      slot_of(p.slot) = Value::undefined(fmt::format("parameter '{}' was not provided", p.name));
  }
  if (macro.caller_slot >= 0 && !caller_found) {
    const auto caller = take(given, "caller");
    const bool there = caller && !caller->is(Kind::kNone);
    slot_of(macro.caller_slot) = there ? *caller : Value::undefined("No caller defined");
  }
  if (macro.kwargs_slot >= 0) {
    auto rest = new_dict(heap_);
    for (auto& [key, value] : given.named) rest->set(heap_, string(key), std::move(value));
    slot_of(macro.kwargs_slot) = Value::shared(Kind::kDict, std::move(rest));
  } else if (!given.named.empty()) {
    refuse("macro '{}' takes no keyword argument '{}'", macro.name, given.named.front().first);
  }
  const size_t count = std::min(macro.parameters.size(), given.positional.size());
  Values rest(given.positional.begin() + static_cast<std::ptrdiff_t>(count), given.positional.end());
  if (macro.varargs_slot >= 0)
    slot_of(macro.varargs_slot) = make_tuple(heap_, std::move(rest));
  else if (!rest.empty())
    refuse("macro '{}' takes not more than {} argument(s)", macro.name, macro.parameters.size());
}

Value Renderer::call_macro(const MacroObject& macro, Arguments given) {
  const Stmt& s = *macro.macro;
  Frame* outer = std::exchange(frame_, enter(s.scope, macro.home));
  bind(s, *frame_, given);
  std::string out = render_captured(s.bodies[0]);
  leave(std::exchange(frame_, outer));
  return string(std::move(out));
}

Value Renderer::call_loop(LoopObject& loop, const Arguments& given) {
  if (!loop.loop->recursive) refuse("the loop must have the 'recursive' marker to be called recursively.");
  if (!loop.running) refuse("a loop that has ended cannot be called");
  Signature signature("loop", given);
  const Value iterable = signature.required("iterable");
  signature.done();
  return string(render_loop(*loop.loop, loop.home, iterable, loop.depth0 + 1));
}

namespace {

void add_members(Renderer& r, DictObject& out, const Value& source) {
  require_defined(source);
  if (source.is(Kind::kDict)) {
    for (const auto& [key, value] : source.as<DictObject>().entries) out.set(r.heap(), key, value);
    return;
  }
  for (const Value& pair : items_of(r.heap(), source)) {
    const Values parts = items_of(r.heap(), pair);
    if (parts.size() != 2) refuse("dictionary update sequence: expected pairs, got {} items", parts.size());
    out.set(r.heap(), parts[0], parts[1]);
  }
}

void fill_dict(Renderer& r, const char* name, DictObject& out, const Arguments& given) {
  if (given.positional.size() > 1)
    refuse("{} expected at most 1 argument, got {}", name, given.positional.size());
  if (!given.positional.empty()) add_members(r, out, given.positional[0]);
  for (const auto& [key, value] : given.named) out.set(r.heap(), r.string(key), value);
}

Value make_range_of(Renderer& r, const Arguments& given) {
  int64_t bounds[3] = {0, 0, 1};
  const size_t n = given.positional.size();
  if (n == 0 || n > 3 || !given.named.empty()) refuse("range expected 1 to 3 arguments, got {}", n);
  for (size_t i = 0; i < n; ++i) {
    require_defined(given.positional[i]);
    if (!given.positional[i].is_integral())
      refuse("'{}' object cannot be interpreted as an integer", type_name(given.positional[i]));
    bounds[n == 1 ? 1 : i] = given.positional[i].as_int();
  }
  return make_range(r.heap(), bounds[0], bounds[1], bounds[2]);
}

}  // namespace

Value Renderer::call_function(Global function, const Arguments& given) {
  switch (function) {
    case Global::kRange:
      return make_range_of(*this, given);
    case Global::kDict: {
      auto out = new_dict(heap_);
      fill_dict(*this, "dict", *out, given);
      return Value::shared(Kind::kDict, std::move(out));
    }
    case Global::kNamespace: {
      NamespaceObject& out = own(std::make_unique<NamespaceObject>());
      fill_dict(*this, "namespace", out.members, given);
      return Value::owned(Kind::kNamespace, &out);
    }
    case Global::kCycler: {
      if (given.positional.empty()) refuse("at least one item has to be provided");
      CyclerObject& out = own(std::make_unique<CyclerObject>());
      out.items = given.positional;
      return Value::owned(Kind::kCycler, &out);
    }
    case Global::kJoiner: {
      Signature signature("joiner", given);
      JoinerObject& out = own(std::make_unique<JoinerObject>());
      out.separator = signature.string("sep").value_or(", ");
      signature.done();
      return Value::owned(Kind::kJoiner, &out);
    }
    case Global::kRaise: {
      Signature signature("raise_exception", given);
      const std::string message = text(signature.required("message"));
      signature.done();
      refuse("the template says: {}", message);
    }
    case Global::kStrftime: {
      Signature signature("strftime_now", given);
      const auto format = signature.string("format");
      signature.done();
      return string(format_time(heap_, format.value_or("")));
    }
  }
  return {};
}

namespace {

Value dict_view(Renderer& r, const Value& dict, ViewObject::Part part) {
  auto view = std::make_shared<ViewObject>();
  view->charge(&r.heap(), 96);
  view->part = part;
  view->dict = dict;
  return Value::shared(Kind::kView, std::move(view));
}

Value call_dict_method(Renderer& r, const Value& self, const std::string& name, const Arguments& given) {
  Signature signature(name.c_str(), given);
  if (name == "get") {
    const Value& key = signature.required("key");
    const Value* fallback = signature.next("default");
    signature.done();
    const Value* found = self.as<DictObject>().find(r.heap(), key);
    return found ? *found : fallback ? *fallback : Value::none();
  }
  signature.done();
  if (name == "keys") return dict_view(r, self, ViewObject::Part::kKeys);
  if (name == "values") return dict_view(r, self, ViewObject::Part::kValues);
  if (name == "items") return dict_view(r, self, ViewObject::Part::kItems);
  return self;  // copy: nothing can change either
}

Value call_list_method(Renderer& r, const Value& self, const std::string& name, const Arguments& given) {
  Signature signature(name.c_str(), given);
  if (name == "copy") {
    signature.done();
    return self;
  }
  const Value& wanted = signature.required("value");
  const Values& items = self.as<ListObject>().items;
  const int64_t length = length_of(self);
  if (name == "count") {
    signature.done();
    return Value::integer(std::count_if(items.begin(), items.end(),
                                        [&](const Value& v) { return equal(r.heap(), v, wanted); }));
  }
  const auto clamp = [&](int64_t i) {
    return std::min(std::max<int64_t>(python_index(i, length), 0), length);
  };
  const int64_t begin = clamp(signature.integer("start").value_or(0));
  const int64_t end = clamp(signature.integer("stop").value_or(length));
  signature.done();
  for (int64_t i = begin; i < end; ++i)
    if (equal(r.heap(), items[static_cast<size_t>(i)], wanted)) return Value::integer(i);
  refuse("{} is not in list", to_literal(r.heap(), wanted));
}

}  // namespace

Value Renderer::call_method(const Value& self, const std::string& name, const Arguments& given) {
  switch (self.kind()) {
    case Kind::kDict:
      return call_dict_method(*this, self, name, given);
    case Kind::kList:
    case Kind::kTuple:
      return call_list_method(*this, self, name, given);
    case Kind::kCycler: {
      auto& cycler = self.as<CyclerObject>();
      if (name == "reset") {
        cycler.at = 0;
        return Value::none();
      }
      const Value current = cycler.items[cycler.at];
      cycler.at = (cycler.at + 1) % cycler.items.size();
      return current;
    }
    default: {
      auto& loop = self.as<LoopObject>();
      if (name == "cycle") {
        if (given.positional.empty()) refuse("no items for cycling given");
        return given.positional[static_cast<size_t>(loop.index0) % given.positional.size()];
      }
      bool changed = !loop.last_changed || loop.last_changed->size() != given.positional.size();
      for (size_t i = 0; !changed && i < given.positional.size(); ++i)
        changed = !equal(heap_, (*loop.last_changed)[i], given.positional[i]);
      loop.last_changed = given.positional;
      return Value::boolean(changed);
    }
  }
}

}  // namespace awq::chat_template
