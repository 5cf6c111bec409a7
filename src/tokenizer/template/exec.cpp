// Statements.
#include <utility>

#include "tokenizer/template/eval.h"

namespace awq::chat_template {

RenderedChat Renderer::run(std::string_view context_json) {
  context_ = parse_context(heap_, context_json);
  frame_ = enter(program_.scope, nullptr);
  body(program_.body);
  result_.text = std::move(output_);
  return std::move(result_);
}

void Renderer::write(std::string_view text) {
  const auto limit = static_cast<size_t>(heap_.limits().output_bytes);
  if (text.size() > limit || output_.size() > limit - text.size())
    refuse("the template's budget of {} bytes of output is used up", limit);
  heap_.copy(text.size());
  heap_.grow(static_cast<int64_t>(text.size()));
  output_ += text;
}

template <class Work>
std::string Renderer::captured(const Work& work, Flow& flow) {
  std::string outer = std::exchange(output_, {});
  if (captured_++ == 0) root_length_ = outer.size();
  flow = work();
  --captured_;
  heap_.shrink(static_cast<int64_t>(output_.size()));
  return std::exchange(output_, std::move(outer));
}

std::string Renderer::render_captured(const Body& statements) {
  Flow flow = Flow::kNext;
  return captured([&] { return body(statements); }, flow);
}

std::string Renderer::render_loop(const Stmt& s, Frame* home, const Value& iterable, int depth0) {
  Flow flow = Flow::kNext;
  return captured([&] { return for_loop(s, home, iterable, depth0); }, flow);
}

// --- scopes

Value Renderer::resolve(const std::string& name) {
  constexpr std::pair<std::string_view, Global> kGlobals[] = {
      {"range", Global::kRange},          {"dict", Global::kDict},     {"namespace", Global::kNamespace},
      {"cycler", Global::kCycler},        {"joiner", Global::kJoiner}, {"raise_exception", Global::kRaise},
      {"strftime_now", Global::kStrftime}};
  if (const Value* v = context_.as<DictObject>().find(heap_, name)) return *v;
  for (const auto& [global, function] : kGlobals)
    if (global == name) {
      auto object = std::make_unique<FunctionObject>();
      object->function = function;
      return Value::owned(Kind::kFunction, &own(std::move(object)));
    }
  return {};
}

Frame* Renderer::enter(const Scope& scope, Frame* parent) {
  const size_t count = scope.symbols.size();
  heap_.step(1 + static_cast<int64_t>(count / 8));
  Frame* frame = nullptr;
  if (!scope.outlives && !spare_.empty()) {
    frame = spare_.back();
    spare_.pop_back();
  } else {
    heap_.grow(static_cast<int64_t>(sizeof(Frame) + count * sizeof(Value)));
    frames_.push_back(std::make_unique<Frame>());
    frame = frames_.back().get();
  }
  frame->scope = &scope;
  frame->parent = parent;
  frame->slots.assign(count, Value());
  for (size_t i = 0; i < count; ++i) {
    const Symbol& symbol = scope.symbols[i];
    if (symbol.load == Symbol::Load::kResolve) frame->slots[i] = resolve(symbol.name);
    if (symbol.load == Symbol::Load::kAlias) {
      const Frame* outer = frame;
      for (int up = symbol.alias.up; up > 0; --up) outer = outer->parent;
      frame->slots[i] = outer->slots[static_cast<size_t>(symbol.alias.slot)];
    }
  }
  return frame;
}

void Renderer::leave(Frame* frame) {
  if (frame->scope->outlives) return;
  frame->slots.clear();
  spare_.push_back(frame);
}

Value& Renderer::slot(const Ref& ref) {
  Frame* frame = frame_;
  for (int up = ref.up; up > 0; --up) frame = frame->parent;
  return frame->slots[static_cast<size_t>(ref.slot)];
}

Renderer::Flow Renderer::scoped(const Scope& scope, Frame* parent, const Body& statements) {
  Frame* outer = std::exchange(frame_, enter(scope, parent));
  const Flow flow = body(statements);
  leave(std::exchange(frame_, outer));
  return flow;
}

// --- statements

Renderer::Flow Renderer::body(const Body& statements) {
  for (const auto& s : statements)
    if (const Flow flow = statement(*s); flow != Flow::kNext) return flow;
  return Flow::kNext;
}

Renderer::Flow Renderer::statement(const Stmt& s) {
  const Deeper deeper(*this);
  heap_.step();
  line_ = s.line;
  switch (s.kind) {
    case Stmt::Kind::kText:
      write(s.text.text());
      break;
    case Stmt::Kind::kOutput:
      for (const auto& e : s.exprs) {
        const Value v = eval(*e);
        if (v.is_string())
          write(v.text());
        else
          write(text(v));
      }
      break;
    case Stmt::Kind::kIf:
      return branch(s);
    case Stmt::Kind::kFor:
      return for_loop(s, frame_, eval(*s.expr), 0);
    case Stmt::Kind::kSet:
      assign(s.target, eval(*s.expr));
      break;
    case Stmt::Kind::kSetBlock:
    case Stmt::Kind::kFilterBlock:
      return filtered_block(s);
    case Stmt::Kind::kMacro: {
      auto macro = std::make_unique<MacroObject>();
      macro->macro = &s;
      macro->home = frame_;
      assign(s.target, Value::owned(Kind::kMacro, &own(std::move(macro))));
      break;
    }
    case Stmt::Kind::kCallBlock:
      call_block(s);
      break;
    case Stmt::Kind::kWith:
      return with(s);
    case Stmt::Kind::kGeneration:
      generation(s);
      break;
    case Stmt::Kind::kBreak:
      return Flow::kBreak;
    case Stmt::Kind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNext;
}

Renderer::Flow Renderer::branch(const Stmt& s) {
  for (size_t i = 0; i < s.exprs.size(); ++i)
    if (truth(eval(*s.exprs[i]))) return body(s.bodies[i]);
  return body(s.bodies.back());
}

void Renderer::assign(const Target& target, const Value& value) {
  switch (target.kind) {
    case Target::Kind::kName:
      slot(target.ref) = value;
      return;
    case Target::Kind::kMember: {
      const Value& object = slot(target.ref);
      if (!object.is(Kind::kNamespace)) refuse("cannot assign attribute on non-namespace object");
      object.as<NamespaceObject>().members.set(heap_, literal_string(target.member), value);
      return;
    }
    case Target::Kind::kTuple: {
      require_defined(value);
      const Values items = items_of(heap_, value);
      if (items.size() != target.parts.size())
        refuse("{} values to unpack (expected {}, got {})",
               items.size() < target.parts.size() ? "not enough" : "too many", target.parts.size(),
               items.size());
      for (size_t i = 0; i < items.size(); ++i) assign(target.parts[i], items[i]);
    }
  }
}

Renderer::Flow Renderer::for_loop(const Stmt& s, Frame* home, const Value& iterable, int depth0) {
  if (!is_iterable(iterable)) refuse("'{}' object is not iterable", type_name(iterable));
  // A loop that the template can name may be kept beyond its end.
  LoopObject local;
  LoopObject& loop = s.reads_loop ? own(std::make_unique<LoopObject>()) : local;
  loop.loop = &s;
  loop.home = home;
  loop.depth0 = depth0;
  loop.iterable = iterable;
  const bool in_place = iterable.is(Kind::kList) || iterable.is(Kind::kTuple) || iterable.is(Kind::kIterator);
  if (!in_place) loop.source = items_of(heap_, iterable);
  const auto bytes = static_cast<int64_t>(loop.source.size() * sizeof(Value));
  heap_.grow(bytes);
  const Flow flow = iterations(s, loop);
  loop.running = false;
  loop.source = {};
  heap_.shrink(bytes);
  if (!loop.completed && !s.bodies[1].empty()) return scoped(s.else_scope, home, s.bodies[1]);
  return flow;
}

Renderer::Flow Renderer::iterations(const Stmt& s, LoopObject& loop) {
  while (advance(loop)) {
    heap_.step();
    Frame* outer = std::exchange(frame_, enter(s.scope, loop.home));
    if (s.loop_slot >= 0) frame_->slots[static_cast<size_t>(s.loop_slot)] = Value::owned(Kind::kLoop, &loop);
    assign(s.target, loop.current);
    const Flow flow = body(s.bodies[0]);
    leave(std::exchange(frame_, outer));
    if (flow == Flow::kBreak) break;
    loop.completed = loop.completed || flow == Flow::kNext;
  }
  return Flow::kNext;
}

bool Renderer::draw(LoopObject& loop, Value& out) {
  for (;;) {
    heap_.step();
    if (loop.iterable.is(Kind::kIterator)) {
      auto& it = loop.iterable.as<IteratorObject>();
      if (it.next >= it.items.size()) return false;
      out = it.items[it.next++];
    } else {
      const bool in_place = loop.iterable.is(Kind::kList) || loop.iterable.is(Kind::kTuple);
      const Values& items = in_place ? loop.iterable.as<ListObject>().items : loop.source;
      if (loop.at >= items.size()) return false;
      out = items[loop.at++];
    }
    if (!loop.loop->test || loop.tested) return true;
    Frame* outer = std::exchange(frame_, enter(loop.loop->test_scope, loop.home));
    assign(loop.loop->target, out);
    const bool passes = truth(eval(*loop.loop->test));
    leave(std::exchange(frame_, outer));
    if (passes) return true;
  }
}

bool Renderer::advance(LoopObject& loop) {
  Value next;
  if (!loop.following.is(Kind::kMissing))
    next = std::exchange(loop.following, Value());
  else if (!draw(loop, next))
    return false;
  ++loop.index0;
  loop.previous = std::exchange(loop.current, std::move(next));
  return true;
}

// {% set x %} and {% filter %}: a body whose text goes through filters.
Renderer::Flow Renderer::filtered_block(const Stmt& s) {
  Frame* outer = std::exchange(frame_, enter(s.scope, frame_));
  Flow flow = Flow::kNext;
  std::string inner = captured([&] { return body(s.bodies[0]); }, flow);
  Value value;
  if (flow == Flow::kNext) {
    Value rendered = std::exchange(rendered_, string(std::move(inner)));
    value = eval(*s.expr);
    rendered_ = std::move(rendered);
  }
  leave(std::exchange(frame_, outer));
  if (flow != Flow::kNext) return flow;
  if (s.kind == Stmt::Kind::kSetBlock)
    assign(s.target, value);
  else
    write(text(value));
  return flow;
}

Renderer::Flow Renderer::with(const Stmt& s) {
  Values values;
  for (const auto& e : s.exprs) values.push_back(eval(*e));
  Frame* outer = std::exchange(frame_, enter(s.scope, frame_));
  for (size_t i = 0; i < values.size(); ++i) assign(s.targets[i], values[i]);
  const Flow flow = body(s.bodies[0]);
  leave(std::exchange(frame_, outer));
  return flow;
}

// transformers counts from what the template has rendered at its outermost level (AssistantTracker).
void Renderer::generation(const Stmt& s) {
  const size_t begin = captured_ > 0 ? root_length_ : output_.size();
  Flow flow = Flow::kNext;
  const std::string inner = captured([&] { return scoped(s.scope, frame_, s.bodies[0]); }, flow);
  result_.generation.emplace_back(begin, begin + inner.size());
  write(inner);
}

void Renderer::call_block(const Stmt& s) {
  auto macro = std::make_unique<MacroObject>();
  macro->macro = &s;
  macro->home = frame_;
  const Value caller = Value::owned(Kind::kMacro, &own(std::move(macro)));
  const Value callee = eval(*s.expr->parts[0]);
  Arguments given = arguments(s.expr->args);
  given.named.emplace_back("caller", caller);
  write(text(call(callee, std::move(given))));
}

}  // namespace awq::chat_template
