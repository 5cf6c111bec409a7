// A parsed template: jinja2's nodes, with every name resolved to a slot of a scope.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tokenizer/template/value.h"

namespace awq::chat_template {

// Where a variable lives: `up` scopes out, at `slot`.
struct Ref {
  int up = 0, slot = -1;
};

// Variables of one scope, in jinja2's terms (idtracking.py): what each holds when the scope is entered.
struct Symbol {
  enum class Load : uint8_t { kParameter, kResolve, kAlias, kUndefined } load = Load::kUndefined;
  std::string name;
  Ref alias;  // of kAlias, as seen from this scope
};
struct Scope {
  std::vector<Symbol> symbols;
  bool outlives = false;  // a macro made inside may look at it after it is left
};

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

struct Argument {
  enum class Kind : uint8_t { kPositional, kNamed, kStar, kDoubleStar } kind = Kind::kPositional;
  std::string name;
  ExprPtr value;
};

struct Expr {
  enum class Kind : uint8_t {
    kConst,
    kName,
    kList,
    kTuple,
    kDict,
    kAttribute,
    kItem,
    kSlice,
    kCall,
    kFilter,
    kTest,
    kNot,
    kNegate,
    kPlus,
    kBinary,
    kConcat,
    kCompare,
    kAnd,
    kOr,
    kCondition
  } kind = Kind::kConst;
  int line = 0, height = 1;
  Value value;                 // kConst
  std::string name;            // of a variable, attribute, filter, test or operator
  Ref ref;                     // kName
  int op = 0;                  // kBinary: an Op; kFilter, kTest: an index of the table of them, -1: unknown
  std::vector<ExprPtr> parts;  // operands; kSlice: the bounds, null when left out; kDict: key, value, ...
  std::vector<int> ops;        // kCompare: an Op for each operand but the first
  std::vector<Argument> args;  // kCall, kFilter, kTest
};

enum Op : int { kAdd, kSub, kMul, kDiv, kFloorDiv, kMod, kPow, kEq, kNe, kLt, kLe, kGt, kGe, kIn, kNotIn };

struct Stmt;
using Body = std::vector<std::unique_ptr<Stmt>>;

// What {% set %} and {% for %} assign to.
struct Target {
  enum class Kind : uint8_t { kName, kTuple, kMember } kind = Kind::kName;
  std::string name, member;  // member of a namespace
  Ref ref;
  std::vector<Target> parts;
};

struct Parameter {
  std::string name;
  int slot = -1;
  ExprPtr fallback;  // null: none
};

struct Stmt {
  enum class Kind : uint8_t {
    kText,
    kOutput,
    kIf,
    kFor,
    kSet,
    kSetBlock,
    kMacro,
    kCallBlock,
    kFilterBlock,
    kWith,
    kGeneration,
    kBreak,
    kContinue
  } kind = Kind::kText;
  int line = 0, height = 1;
  Value text;                   // kText
  std::vector<ExprPtr> exprs;   // kOutput; kIf: the conditions; kWith: the values
  std::vector<Body> bodies;     // kIf: one for each condition, the last for else; others: [0]
  ExprPtr expr;                 // kFor: what is iterated; kSet: value; kCallBlock: call; blocks: the filter
  ExprPtr test;                 // kFor: if
  Target target;                // kFor, kSet, kSetBlock, kMacro
  std::vector<Target> targets;  // kWith
  Scope scope, else_scope, test_scope;
  bool recursive = false;   // kFor
  bool reads_loop = false;  // kFor: `loop` is wanted
  std::string name;         // kMacro
  std::vector<Parameter> parameters;
  bool takes_caller = false, takes_kwargs = false, takes_varargs = false;  // what its body reads
  bool explicit_caller = false;  // `caller` is one of the parameters
  int loop_slot = -1, caller_slot = -1, kwargs_slot = -1, varargs_slot = -1;
};

struct Program {
  std::string where;
  Body body;
  Scope scope;
  std::vector<std::string> reads;  // names of variables that are read, sorted
};

// Words that the value of this Expr stands for in a block's filter chain: what was rendered.
inline constexpr const char* kRendered = "\x01rendered";

std::unique_ptr<Program> parse_program(std::string_view source, const std::string& where);
void resolve_names(Program& program);

}  // namespace awq::chat_template
