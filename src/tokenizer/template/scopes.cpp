// Which variable a name means. jinja2 decides that before anything runs (idtracking.py): a name that is
// stored in a scope belongs to it from the scope's first line, holding until then what the scope around it
// calls so, or nothing when no scope around it mentions it.
#include <map>
#include <set>

#include "tokenizer/template/ast.h"

namespace awq::chat_template {
namespace {

using Load = Symbol::Load;

class Names {  // of one scope
 public:
  Names(Scope& scope, Names* parent) : scope_(scope), parent_(parent) {}

  Scope& scope() { return scope_; }
  Names* parent() const { return parent_; }

  Ref find(const std::string& name) const {
    int up = 0;
    for (const Names* n = this; n; n = n->parent_, ++up)
      if (const auto it = n->slots_.find(name); it != n->slots_.end()) return {up, it->second};
    return {0, -1};
  }

  int parameter(const std::string& name) {
    stores_.insert(name);
    return define(name, Load::kParameter);
  }

  void load(const std::string& name) {
    if (find(name).slot < 0) define(name, Load::kResolve);
  }

  void store(const std::string& name) {
    if (stores_.insert(name).second) journal_.push_back(name);
    if (!slots_.contains(name)) define(name, outer(name).slot < 0 ? Load::kUndefined : Load::kAlias);
  }

  // Around an {% if %}: what it stores for the first time may or may not have been stored after it.
  size_t mark() const { return journal_.size(); }
  void branch_since(size_t mark) {
    for (size_t i = mark; i < journal_.size(); ++i)
      define(journal_[i], outer(journal_[i]).slot < 0 ? Load::kResolve : Load::kAlias);
  }

 private:
  Ref outer(const std::string& name) const {
    if (!parent_) return {0, -1};
    Ref ref = parent_->find(name);
    ++ref.up;
    return ref;
  }

  int define(const std::string& name, Load load) {
    const auto [it, added] = slots_.emplace(name, static_cast<int>(scope_.symbols.size()));
    if (added) scope_.symbols.push_back({});
    Symbol& symbol = scope_.symbols[static_cast<size_t>(it->second)];
    symbol.name = name;
    symbol.load = load;
    if (load == Load::kAlias) symbol.alias = outer(name);
    return it->second;
  }

  Scope& scope_;
  Names* parent_;
  std::map<std::string, int> slots_;
  std::set<std::string> stores_;
  std::vector<std::string> journal_;  // stores_, in the order in which they came
};

// Collects a scope's names, without looking into the scopes inside it.
class Collector {
 public:
  explicit Collector(Names& names) : names_(names) {}

  void expr(const Expr* e) {
    if (!e) return;
    if (e->kind == Expr::Kind::kName && e->name != kRendered) names_.load(e->name);
    for (const auto& part : e->parts) expr(part.get());
    for (const auto& arg : e->args) expr(arg.value.get());
  }

  void target(const Target& t) {
    if (t.kind == Target::Kind::kName) names_.store(t.name);
    if (t.kind == Target::Kind::kMember) names_.load(t.name);
    for (const Target& part : t.parts) target(part);
  }

  void body(const Body& statements) {
    for (const auto& s : statements) statement(*s);
  }

 private:
  void statement(const Stmt& s) {
    switch (s.kind) {
      case Stmt::Kind::kOutput:
      case Stmt::Kind::kWith:
        for (const auto& e : s.exprs) expr(e.get());
        break;
      case Stmt::Kind::kIf:
        branches(s);
        break;
      case Stmt::Kind::kSet:
        expr(s.expr.get());
        target(s.target);
        break;
      case Stmt::Kind::kSetBlock:
      case Stmt::Kind::kMacro:
        target(s.target);
        break;
      case Stmt::Kind::kFor:
      case Stmt::Kind::kCallBlock:
      case Stmt::Kind::kFilterBlock:
        expr(s.expr.get());
        break;
      default:
        break;
    }
  }

  void branches(const Stmt& s) {
    expr(s.exprs[0].get());
    const size_t mark = names_.mark();
    for (size_t i = 0; i < s.bodies.size(); ++i) {
      if (i > 0 && i < s.exprs.size()) expr(s.exprs[i].get());
      body(s.bodies[i]);
    }
    names_.branch_since(mark);
  }

  Names& names_;
};

class Resolver {
 public:
  void program(Program& p) {
    Names names(p.scope, nullptr);
    Collector(names).body(p.body);
    body(names, p.body);
  }

 private:
  void expr(Names& names, Expr* e) {
    if (!e) return;
    if (e->kind == Expr::Kind::kName && e->name != kRendered) e->ref = names.find(e->name);
    for (const auto& part : e->parts) expr(names, part.get());
    for (const auto& arg : e->args) expr(names, arg.value.get());
  }

  void target(Names& names, Target& t) {
    if (t.kind != Target::Kind::kTuple) t.ref = names.find(t.name);
    for (Target& part : t.parts) target(names, part);
  }

  static void parameters(Names& names, Target& t) {
    if (t.kind == Target::Kind::kName) t.ref = {0, names.parameter(t.name)};
    for (Target& part : t.parts) parameters(names, part);
  }

  void body(Names& names, Body& statements) {
    for (const auto& s : statements) statement(names, *s);
  }

  void inner(Names& names, Stmt& s) {
    Names own(s.scope, &names);
    Collector collector(own);
    collector.body(s.bodies[0]);
    // The filter of a block is evaluated where the block's variables still are.
    if (s.kind != Stmt::Kind::kGeneration) collector.expr(s.expr.get());
    body(own, s.bodies[0]);
    expr(own, s.expr.get());
  }

  void statement(Names& names, Stmt& s) {
    switch (s.kind) {
      case Stmt::Kind::kOutput:
        for (const auto& e : s.exprs) expr(names, e.get());
        break;
      case Stmt::Kind::kIf:
        for (const auto& e : s.exprs) expr(names, e.get());
        for (Body& b : s.bodies) body(names, b);
        break;
      case Stmt::Kind::kSet:
        expr(names, s.expr.get());
        target(names, s.target);
        break;
      case Stmt::Kind::kSetBlock:
        target(names, s.target);
        inner(names, s);
        break;
      case Stmt::Kind::kFilterBlock:
      case Stmt::Kind::kGeneration:
        inner(names, s);
        break;
      case Stmt::Kind::kFor:
        loop(names, s);
        break;
      case Stmt::Kind::kWith:
        with(names, s);
        break;
      case Stmt::Kind::kMacro:
        target(names, s.target);
        macro(names, s);
        break;
      case Stmt::Kind::kCallBlock:
        expr(names, s.expr.get());
        macro(names, s);
        break;
      default:
        break;
    }
  }

  void loop(Names& names, Stmt& s) {
    expr(names, s.expr.get());
    if (s.test) {
      Names test(s.test_scope, &names);
      parameters(test, s.target);  // first in both scopes: the same slots
      Collector(test).expr(s.test.get());
      expr(test, s.test.get());
    }
    Names own(s.scope, &names);
    parameters(own, s.target);
    if (s.reads_loop) s.loop_slot = own.parameter("loop");
    Collector(own).body(s.bodies[0]);
    body(own, s.bodies[0]);
    Names otherwise(s.else_scope, &names);
    Collector(otherwise).body(s.bodies[1]);
    body(otherwise, s.bodies[1]);
  }

  void with(Names& names, Stmt& s) {
    for (const auto& e : s.exprs) expr(names, e.get());
    Names own(s.scope, &names);
    for (Target& t : s.targets) parameters(own, t);
    Collector(own).body(s.bodies[0]);
    body(own, s.bodies[0]);
  }

  void macro(Names& names, Stmt& s) {
    for (Names* n = &names; n; n = n->parent()) n->scope().outlives = true;
    Names own(s.scope, &names);
    for (Parameter& p : s.parameters) p.slot = own.parameter(p.name);
    if (s.takes_caller && !s.explicit_caller) s.caller_slot = own.parameter("caller");
    if (s.takes_kwargs) s.kwargs_slot = own.parameter("kwargs");
    if (s.takes_varargs) s.varargs_slot = own.parameter("varargs");
    Collector collector(own);
    for (const Parameter& p : s.parameters) collector.expr(p.fallback.get());
    collector.body(s.bodies[0]);
    for (Parameter& p : s.parameters) expr(own, p.fallback.get());
    body(own, s.bodies[0]);
  }
};

}  // namespace

void resolve_names(Program& program) { Resolver().program(program); }

}  // namespace awq::chat_template
