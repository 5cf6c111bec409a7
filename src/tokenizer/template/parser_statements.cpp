#include <fmt/core.h>

#include <algorithm>

#include "tokenizer/template/parser.h"

namespace awq::chat_template {

using TokenKind = Token::Kind;

std::unique_ptr<Program> parse_program(std::string_view source, const std::string& where) {
  auto program = std::make_unique<Program>();
  program->where = where;
  Parser(tokenize(source), *program).parse();
  std::sort(program->reads.begin(), program->reads.end());
  program->reads.erase(std::unique(program->reads.begin(), program->reads.end()), program->reads.end());
  resolve_names(*program);
  return program;
}

void Parser::parse() { program_.body = statements({}); }

std::unique_ptr<Stmt> Parser::make_statement(Stmt::Kind kind) const {
  auto s = std::make_unique<Stmt>();
  s->kind = kind;
  s->line = current().line;
  return s;
}

// Up to a tag named by one of `ends` ({% and the name are taken up to the name), or the end of the template.
Body Parser::statements(const std::vector<std::string_view>& ends) {
  const Nested nested(*this);
  const int opened_at = current().line;
  Body body;
  for (;;) {
    switch (current().kind) {
      case TokenKind::kEnd:
        if (!ends.empty())
          fail_at(opened_at, fmt::format("expected '{}', got the end of the template", ends.back()));
        return body;
      case TokenKind::kText: {
        auto text = make_statement(Stmt::Kind::kText);
        text->text = literal_string(next().text);
        body.push_back(std::move(text));
        break;
      }
      case TokenKind::kOutputBegin:
        body.push_back(output());
        break;
      default:
        expect(TokenKind::kBlockBegin, "a tag");
        if (is(TokenKind::kName) && std::find(ends.begin(), ends.end(), current().text) != ends.end())
          return body;
        body.push_back(statement());
        expect(TokenKind::kBlockEnd, "'%}'");
    }
  }
}

std::unique_ptr<Stmt> Parser::output() {
  auto s = make_statement(Stmt::Kind::kOutput);
  next();
  s->exprs.push_back(tuple(true, false));
  expect(TokenKind::kOutputEnd, "'}}'");
  return s;
}

std::unique_ptr<Stmt> Parser::statement() {
  const int line = current().line;
  const std::string tag = expect_name("the name of a tag");
  if (tag == "if") return parse_if();
  if (tag == "for") return parse_for();
  if (tag == "set") return parse_set();
  if (tag == "macro") return parse_macro();
  if (tag == "call") return parse_call();
  if (tag == "filter") return parse_filter_block();
  if (tag == "with") return parse_with();
  if (tag == "generation") return parse_generation();
  if (tag == "break") return parse_jump(Stmt::Kind::kBreak);
  if (tag == "continue") return parse_jump(Stmt::Kind::kContinue);
  if (tag == "print") {
    auto s = make_statement(Stmt::Kind::kOutput);
    do s->exprs.push_back(expression());
    while (skip_operator(","));
    return s;
  }
  const bool closes = tag.starts_with("end") || tag == "else" || tag == "elif";
  if (closes) fail_at(line, fmt::format("'{}' closes nothing that is open here", tag));
  throw SyntaxFailure{line, fmt::format("the tag '{}' is not supported", tag), true};
}

Body Parser::body(const std::vector<std::string_view>& ends) {
  skip_operator(":");
  expect(TokenKind::kBlockEnd, "'%}'");
  return statements(ends);
}

Body Parser::body_to(std::string_view end) {
  Body out = body({end});
  next();
  return out;
}

std::unique_ptr<Stmt> Parser::parse_if() {
  auto s = make_statement(Stmt::Kind::kIf);
  ++conditional_;
  for (;;) {
    s->exprs.push_back(tuple(false, false));
    s->bodies.push_back(body({"elif", "else", "endif"}));
    const std::string end = next().text;
    if (end == "elif") continue;
    s->bodies.push_back(end == "else" ? body_to("endif") : Body());
    break;
  }
  --conditional_;
  return s;
}

std::unique_ptr<Stmt> Parser::parse_for() {
  auto s = make_statement(Stmt::Kind::kFor);
  s->target = target(false, true);
  if (!skip_name("in")) fail_here("expected 'in', got " + found());
  s->expr = tuple(false, false, true);
  if (skip_name("if")) s->test = expression();
  s->recursive = skip_name("recursive");
  ++loops_;
  const size_t reads_before = program_.reads.size();
  s->bodies.push_back(body({"endfor", "else"}));
  s->reads_loop = s->recursive || reads_since(reads_before, "loop");
  --loops_;
  s->bodies.push_back(next().text == "else" ? body_to("endfor") : Body());
  return s;
}

std::unique_ptr<Stmt> Parser::parse_set() {
  auto s = make_statement(Stmt::Kind::kSet);
  s->target = target(true, true);
  if (skip_operator("=")) {
    s->expr = tuple(true, false);
    return s;
  }
  s->kind = Stmt::Kind::kSetBlock;
  auto rendered = make(Expr::Kind::kName, s->line);
  rendered->name = kRendered;
  s->expr = filters(std::move(rendered), false);
  s->bodies.push_back(body_to("endset"));
  return s;
}

std::unique_ptr<Stmt> Parser::parse_macro() {
  auto s = make_statement(Stmt::Kind::kMacro);
  s->target.name = s->name = expect_name("the macro's name");
  signature(*s);
  macro_body(*s, "endmacro");
  return s;
}

bool Parser::reads_since(size_t mark, std::string_view name) const {
  return std::find(program_.reads.begin() + static_cast<std::ptrdiff_t>(mark), program_.reads.end(), name) !=
         program_.reads.end();
}

// A body that is a function of its own: no loop around it can be left, and what it reads decides whether it
// takes a caller, any keyword or any further argument.
void Parser::macro_body(Stmt& s, std::string_view end) {
  const int outer_loops = std::exchange(loops_, 0);
  const size_t mark = program_.reads.size();
  s.bodies.push_back(body_to(end));
  loops_ = outer_loops;
  s.takes_caller = reads_since(mark, "caller");
  s.takes_kwargs = reads_since(mark, "kwargs");
  s.takes_varargs = reads_since(mark, "varargs");
  for (const Parameter& p : s.parameters) {
    if (p.name == "caller" && s.takes_caller && !p.fallback)
      fail_at(s.line, "the special argument 'caller' must be omitted or be given a default");
    if (p.name == "kwargs") s.takes_kwargs = false;
    if (p.name == "varargs") s.takes_varargs = false;
    s.explicit_caller = s.explicit_caller || p.name == "caller";
  }
}

std::unique_ptr<Stmt> Parser::parse_call() {
  auto s = make_statement(Stmt::Kind::kCallBlock);
  s->name = "caller";
  if (is_operator("(")) signature(*s);
  s->expr = expression();
  if (s->expr->kind != Expr::Kind::kCall) fail_at(s->line, "expected a call of a macro");
  macro_body(*s, "endcall");
  return s;
}

std::unique_ptr<Stmt> Parser::parse_filter_block() {
  auto s = make_statement(Stmt::Kind::kFilterBlock);
  auto rendered = make(Expr::Kind::kName, s->line);
  rendered->name = kRendered;
  s->expr = filters(std::move(rendered), true);
  s->bodies.push_back(body_to("endfilter"));
  return s;
}

std::unique_ptr<Stmt> Parser::parse_with() {
  auto s = make_statement(Stmt::Kind::kWith);
  while (!is(TokenKind::kBlockEnd)) {
    if (!s->targets.empty()) expect_operator(",");
    s->targets.push_back(target(false, true));
    expect_operator("=");
    s->exprs.push_back(expression());
  }
  s->bodies.push_back(body_to("endwith"));
  return s;
}

std::unique_ptr<Stmt> Parser::parse_generation() {
  auto s = make_statement(Stmt::Kind::kGeneration);
  macro_body(*s, "endgeneration");
  return s;
}

std::unique_ptr<Stmt> Parser::parse_jump(Stmt::Kind kind) {
  auto s = make_statement(kind);
  if (loops_ == 0)
    fail_here(
        fmt::format("'{}' stands outside of a loop", kind == Stmt::Kind::kBreak ? "break" : "continue"));
  return s;
}

void Parser::signature(Stmt& macro) {
  expect_operator("(");
  while (!is_operator(")")) {
    if (!macro.parameters.empty()) expect_operator(",");
    Parameter parameter;
    parameter.name = simple_target(false).name;
    if (skip_operator("="))
      parameter.fallback = expression();
    else if (!macro.parameters.empty() && macro.parameters.back().fallback)
      fail_here("a parameter without default follows one with default");
    macro.parameters.push_back(std::move(parameter));
  }
  expect_operator(")");
}

Target Parser::simple_target(bool with_member) {
  Target t;
  t.name = expect_name("the name of a variable");
  for (const char* word : {"true", "false", "none", "True", "False", "None"})
    if (t.name == word) fail_here(fmt::format("can't assign to '{}'", word));
  if (with_member && skip_operator(".")) {
    t.kind = Target::Kind::kMember;
    t.member = expect_name("the name of a namespace's attribute");
    program_.reads.push_back(t.name);
  }
  return t;
}

Target Parser::target(bool with_member, bool tuples) {
  const Nested nested(*this);
  Target t;
  t.kind = Target::Kind::kTuple;
  bool is_tuple = false;
  for (;;) {
    if (skip_operator("(")) {
      t.parts.push_back(target(with_member, true));
      expect_operator(")");
    } else {
      t.parts.push_back(simple_target(with_member));
    }
    if (!tuples || !skip_operator(",")) break;
    is_tuple = true;
    if (is_name("in") || is_operator("=") || is_operator(")") || is(TokenKind::kBlockEnd)) break;
  }
  if (!is_tuple) {
    Target only = std::move(t.parts[0]);
    return only;
  }
  return t;
}

}  // namespace awq::chat_template
